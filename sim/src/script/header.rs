//! `with KEY=VALUE… OPERATION`: a command whose header is not as it should be.

use std::fmt;

use blkproof_engine::control::PAYLOAD_BYTES_MAX;

use super::parse::number;

/// What is different in a command's header, or in the entry that carries it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Header {
    /// `nr=N`: another command number.
    pub nr: Option<u8>,
    /// `type=N`: another ioctl type; 0 is the bare number of old.
    pub kind: Option<u8>,
    /// `entry=64`: a control command in an entry of 64 bytes.
    pub small: bool,
    /// `id=N`: another device.
    pub id: Option<u32>,
    /// `queue=N`: another queue.
    pub queue: Option<u16>,
    /// `len=N`: another length of the memory.
    pub len: Option<u16>,
    /// `addr=null`, `addr=bad`, `addr=readonly`: other memory.
    pub place: Option<Place>,
}

/// Memory of a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// No address.
    Null,
    /// Nothing is mapped there.
    Bad,
    /// It can be read only.
    ReadOnly,
}

const PLACES: [(Place, &str); 3] =
    [(Place::Null, "null"), (Place::Bad, "bad"), (Place::ReadOnly, "readonly")];

fn named<T: Copy>(table: &[(T, &str)], key: &str, name: &str) -> Result<T, String> {
    let found = table.iter().find(|(_, one)| *one == name);
    found.map(|(value, _)| *value).ok_or_else(|| format!("{key}={name} makes no sense"))
}

fn name<'t, T: PartialEq>(table: &[(T, &'t str)], value: &T) -> &'t str {
    table.iter().find(|(one, _)| one == value).map_or("?", |(_, name)| name)
}

impl Header {
    /// As it should be.
    pub(crate) const USUAL: Self =
        Self { nr: None, kind: None, small: false, id: None, queue: None, len: None, place: None };

    /// The command's code, from what it should be.
    pub const fn code(&self, ioctl: u32) -> u32 {
        let nr = match self.nr {
            Some(nr) => nr as u32,
            None => ioctl & 0xff,
        };
        match self.kind {
            Some(0) => nr,
            Some(kind) => ioctl & 0xffff_0000 | (kind as u32) << 8 | nr,
            None => ioctl & 0xffff_ff00 | nr,
        }
    }

    /// From the words after `with`; the rest is the operation.
    pub(super) fn parse<'a, 'w>(words: &'w [&'a str]) -> Result<(Self, &'w [&'a str]), String> {
        let keys = words.iter().take_while(|word| word.contains('=')).count();
        let (words, rest) = words.split_at(keys);
        let mut header = Self::default();
        for (key, value) in words.iter().filter_map(|word| word.split_once('=')) {
            match key {
                "nr" => header.nr = Some(number(value, "command number")?),
                "type" => header.kind = Some(number(value, "ioctl type")?),
                "entry" if value == "64" => header.small = true,
                "id" => header.id = Some(number(value, "device")?),
                "queue" => header.queue = Some(number(value, "queue")?),
                "len" => header.len = Some(number(value, "length")?),
                "addr" => header.place = Some(named(&PLACES, key, value)?),
                _ => return Err(format!("{key}={value} does not belong here")),
            }
        }
        if header.len.is_some_and(|len| usize::from(len) > PAYLOAD_BYTES_MAX) {
            return Err(format!("a command has {PAYLOAD_BYTES_MAX} bytes of memory"));
        }
        if header == Self::default() { Err("with what?".into()) } else { Ok((header, rest)) }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nr, kind, small, id, queue, len, place } = self;
        f.write_str("with")?;
        nr.map_or(Ok(()), |nr| write!(f, " nr={nr}"))?;
        kind.map_or(Ok(()), |kind| write!(f, " type={kind}"))?;
        f.write_str(if *small { " entry=64" } else { "" })?;
        id.map_or(Ok(()), |id| write!(f, " id={id}"))?;
        queue.map_or(Ok(()), |queue| write!(f, " queue={queue}"))?;
        len.map_or(Ok(()), |len| write!(f, " len={len}"))?;
        place.map_or(Ok(()), |place| write!(f, " addr={}", name(&PLACES, &place)))
    }
}
