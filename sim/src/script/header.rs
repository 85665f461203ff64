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
    /// `path=own`, `path=missing`, `path=null`: the memory begins with a path.
    pub path: Option<PathName>,
    /// `pathlen=N`: another length of the path.
    pub path_len: Option<u16>,
}

/// A path that a command names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PathName {
    /// The device's own `/dev/ublkcN`.
    Own,
    /// One that is not there.
    Missing,
    /// `/dev/null`.
    Null,
}

const PATHS: [(PathName, &str); 3] =
    [(PathName::Own, "own"), (PathName::Missing, "missing"), (PathName::Null, "null")];

impl PathName {
    /// The path to a device with this number, as the kernel gets it.
    pub fn bytes(self, id: u32) -> Vec<u8> {
        let mut path = match self {
            Self::Own => format!("/dev/ublkc{id}"),
            Self::Missing => "/dev/missing".into(),
            Self::Null => "/dev/null".into(),
        };
        path.push('\0');
        path.into_bytes()
    }
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
    pub(crate) const USUAL: Self = Self {
        nr: None,
        kind: None,
        small: false,
        id: None,
        queue: None,
        len: None,
        place: None,
        path: None,
        path_len: None,
    };

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
                "path" => header.path = Some(named(&PATHS, key, value)?),
                "pathlen" => header.path_len = Some(number(value, "length")?),
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
        let Self { nr, kind, small, id, queue, len, place, path, path_len } = self;
        f.write_str("with")?;
        nr.map_or(Ok(()), |nr| write!(f, " nr={nr}"))?;
        kind.map_or(Ok(()), |kind| write!(f, " type={kind}"))?;
        f.write_str(if *small { " entry=64" } else { "" })?;
        id.map_or(Ok(()), |id| write!(f, " id={id}"))?;
        queue.map_or(Ok(()), |queue| write!(f, " queue={queue}"))?;
        len.map_or(Ok(()), |len| write!(f, " len={len}"))?;
        place.map_or(Ok(()), |place| write!(f, " addr={}", name(&PLACES, &place)))?;
        path.map_or(Ok(()), |path| write!(f, " path={}", name(&PATHS, &path)))?;
        path_len.map_or(Ok(()), |len| write!(f, " pathlen={len}"))
    }
}
