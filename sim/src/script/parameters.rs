//! What `params` sets, as words: every field of `struct ublk_params` by its kernel's name.

use std::fmt;

use blkproof_engine::uapi::{BasicParams, DevtParams, DiscardParams, ParamAttrs, Params};

use super::parse::number;
use crate::world::BUFFER_SECTORS;

/// Attributes that have a word of their own: `WORD=yes`.
const ATTRS: [(&str, ParamAttrs); 4] = [
    ("readonly", ParamAttrs::READ_ONLY),
    ("rotational", ParamAttrs::ROTATIONAL),
    ("cache", ParamAttrs::VOLATILE_CACHE),
    ("fua", ParamAttrs::FUA),
];

/// A field: its word, its part, and how it is read and written. Writing one makes its part exist.
struct Field {
    word: &'static str,
    part: &'static str,
    get: fn(&Params) -> Option<u64>,
    set: fn(&mut Params, &str) -> Result<(), String>,
}

macro_rules! fields {
    ($($word:literal $part:ident $field:ident;)*) => {
        [$(Field {
            word: $word,
            part: stringify!($part),
            get: |params| params.$part.map(|part| u64::from(part.$field)),
            set: |params, value| {
                params.$part.get_or_insert_default().$field = number(value, $word)?;
                Ok(())
            },
        }),*]
    };
}

const FIELDS: [Field; 25] = fields! {
    "logical_bs_shift" basic logical_bs_shift;
    "physical_bs_shift" basic physical_bs_shift;
    "io_opt_shift" basic io_opt_shift;
    "io_min_shift" basic io_min_shift;
    "max_sectors" basic max_sectors;
    "chunk_sectors" basic chunk_sectors;
    "virt_boundary_mask" basic virt_boundary_mask;
    "discard_alignment" discard discard_alignment;
    "discard_granularity" discard discard_granularity;
    "max_discard_sectors" discard max_discard_sectors;
    "max_write_zeroes_sectors" discard max_write_zeroes_sectors;
    "max_discard_segments" discard max_discard_segments;
    "max_open_zones" zoned max_open_zones;
    "max_active_zones" zoned max_active_zones;
    "max_zone_append_sectors" zoned max_zone_append_sectors;
    "dma_alignment" dma alignment;
    "seg_boundary_mask" segment seg_boundary_mask;
    "max_segment_size" segment max_segment_size;
    "max_segments" segment max_segments;
    "integrity_flags" integrity flags;
    "max_integrity_segments" integrity max_integrity_segments;
    "interval_exp" integrity interval_exp;
    "metadata_size" integrity metadata_size;
    "pi_offset" integrity pi_offset;
    "csum_type" integrity csum_type;
};

/// What SET_PARAMS is given. A part of which nothing is said is not there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Parameters {
    /// The parts and their fields.
    pub params: Params,
    /// `types=N`: other type bits than those of the parts.
    pub types: Option<u32>,
    /// `bytes=N`: another length in the header of the parameters than that of all of them.
    pub bytes: Option<u32>,
}

impl Parameters {
    /// Nothing but a size, and what every device needs.
    pub const fn new(sectors: u64) -> Self {
        Self { params: usual(sectors, ParamAttrs(0)), types: None, bytes: None }
    }

    /// The same with more attributes.
    #[must_use]
    pub fn with(mut self, attrs: ParamAttrs) -> Self {
        let basic = self.params.basic.get_or_insert_default();
        basic.attrs = basic.attrs.union(attrs);
        self
    }

    /// The same with chunks, discards and write-zeroes of so many sectors; 0: without.
    #[must_use]
    pub(super) fn splitting(mut self, chunk: u32, discard: u32, zeroes: u32) -> Self {
        self.params.basic.get_or_insert_default().chunk_sectors = chunk;
        self.params.discard = (discard > 0 || zeroes > 0).then_some(DiscardParams {
            max_discard_sectors: discard,
            max_write_zeroes_sectors: zeroes,
            ..DISCARD
        });
        self
    }

    /// Whether requests may be larger than the model has buffers for.
    pub(super) fn allow_large(&self) -> bool {
        self.params.basic.is_some_and(|basic| basic.max_sectors > BUFFER_SECTORS as u32)
    }

    /// From the words after `params`.
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let pairs = words.iter().map(|word| {
            word.split_once('=').ok_or_else(|| format!("{word:?} does not belong here"))
        });
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let sectors = pairs.iter().find(|(key, _)| *key == "sectors");
        let (_, sectors) = sectors.ok_or("params needs sectors=N")?;
        let mut options = Self::new(number(sectors, "number of sectors")?);
        for (key, value) in pairs {
            options.set(key, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let params = &mut self.params;
        let yes_or_no = || match value {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(format!("{key}={value}: yes or no")),
        };
        if let Some((_, attr)) = ATTRS.iter().find(|(word, _)| *word == key) {
            let basic = params.basic.get_or_insert_default();
            if yes_or_no()? {
                basic.attrs = basic.attrs.union(*attr);
            }
            return Ok(());
        }
        if let Some(field) = FIELDS.iter().find(|field| field.word == key) {
            if field.part == "discard" {
                params.discard.get_or_insert(DISCARD);
            }
            return (field.set)(params, value);
        }
        match key {
            "sectors" => {}
            "basic" if !yes_or_no()? => params.basic = None,
            "basic" => {}
            "devt" => params.devt = yes_or_no()?.then(DevtParams::default),
            "types" => self.types = Some(number(value, "set of types")?),
            "bytes" => self.bytes = Some(number(value, "number of bytes")?),
            _ => return Err(format!("{key:?} is no parameter")),
        }
        Ok(())
    }

    /// As the kernel gets it.
    pub fn encode(&self) -> [u8; Params::SIZE] {
        let mut bytes = self.params.encode();
        if let Some(len) = self.bytes {
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
        }
        if let Some(types) = self.types {
            bytes[4..8].copy_from_slice(&types.to_ne_bytes());
        }
        bytes
    }

    /// What GET_PARAMS brought, as far as its types say that it is there. Numbers of devices are only said to be there.
    pub fn told(bytes: &[u8; Params::SIZE]) -> String {
        let len = u32::from_ne_bytes(*bytes.first_chunk().expect("it has more bytes"));
        let mut whole = *bytes;
        whole[..4].copy_from_slice(&(Params::SIZE as u32).to_ne_bytes());
        let params = Params::decode(&whole).unwrap_or_default();
        let params = Params { devt: params.devt.map(|_| DevtParams::default()), ..params };
        let bytes = (len as usize != Params::SIZE).then_some(len);
        Self { params, types: None, bytes }.to_string()
    }
}

/// Of discards and zeroes, what is not said: granules of a page, and what every kernel takes.
const DISCARD: DiscardParams = DiscardParams {
    discard_alignment: 0,
    discard_granularity: 4096,
    max_discard_sectors: 0,
    max_write_zeroes_sectors: 0,
    max_discard_segments: 1,
};

/// Parameters that every kernel takes.
const fn usual(sectors: u64, attrs: ParamAttrs) -> Params {
    let basic = BasicParams {
        attrs,
        logical_bs_shift: 9,
        physical_bs_shift: 12,
        io_opt_shift: 12,
        io_min_shift: 9,
        // The least that every driver accepts: what is larger is split.
        max_sectors: BUFFER_SECTORS as u32,
        chunk_sectors: 0,
        dev_sectors: sectors,
        virt_boundary_mask: 0,
    };
    Params {
        basic: Some(basic),
        discard: None,
        devt: None,
        zoned: None,
        dma: None,
        segment: None,
        integrity: None,
    }
}

/// The size, and what is not as usual.
impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { params, types, bytes } = self;
        let basic = params.basic.unwrap_or_default();
        write!(f, "sectors={}", basic.dev_sectors)?;
        if params.basic.is_none() {
            f.write_str(" basic=no")?;
        }
        for (word, _) in ATTRS.iter().filter(|(_, attr)| basic.attrs.contains(*attr)) {
            write!(f, " {word}=yes")?;
        }
        let usual = usual(0, ParamAttrs(0));
        for Field { word, get, .. } in &FIELDS {
            match get(params) {
                Some(value) if get(&usual) != Some(value) => write!(f, " {word}={value}")?,
                Some(_) | None => {}
            }
        }
        if params.devt.is_some() {
            f.write_str(" devt=yes")?;
        }
        types.map_or(Ok(()), |types| write!(f, " types={types}"))?;
        bytes.map_or(Ok(()), |bytes| write!(f, " bytes={bytes}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_survive_print_and_parse() {
        for text in [
            "sectors=16",
            "sectors=16 cache=yes fua=yes max_sectors=7",
            "sectors=0 basic=no dma_alignment=511",
            "sectors=16 devt=yes types=65 bytes=8",
            "sectors=64 chunk_sectors=4",
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(Parameters::parse(&words).map(|it| it.to_string()), Ok(text.into()));
        }
        for text in ["cache=yes", "sectors=16 speed=9", "sectors=16 max_segments=70000"] {
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(Parameters::parse(&words).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_never_set_is_told_as_nothing() {
        assert_eq!(Parameters::told(&[0; Params::SIZE]), "sectors=0 basic=no bytes=0");
        let bytes = Parameters::new(16).with(ParamAttrs::VOLATILE_CACHE).encode();
        assert_eq!(Parameters::told(&bytes), "sectors=16 cache=yes");
    }

    #[test]
    fn discards_have_a_granule_and_a_segment_unless_it_is_said() {
        let given = |words: &[&str]| Parameters::parse(words).map(|it| it.params.discard);
        let expected = DiscardParams { max_discard_sectors: 8, ..DISCARD };
        assert_eq!(given(&["sectors=16", "max_discard_sectors=8"]), Ok(Some(expected)));
        let expected = DiscardParams { max_discard_segments: 0, ..expected };
        let words = ["sectors=16", "max_discard_segments=0", "max_discard_sectors=8"];
        assert_eq!(given(&words), Ok(Some(expected)));
        assert_eq!(given(&["sectors=16"]), Ok(None));
    }
}
