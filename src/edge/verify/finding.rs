//! What `verify` has to say about the stored log.

use crate::core::lsn::Lsn;
use crate::core::wal::fault::{Fault, Flaw, Place};
use crate::core::wal::scan::Damage;
use serde::Serialize;
use std::fmt;

/// Something is damaged, missing, or not where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing is wrong, see [`Kind`].
    pub kind: Kind,
    /// The file, without its directory if only one was given.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// Where in the log.
    pub lsn: Option<String>,
    /// What should be there.
    pub expected: Option<String>,
    /// What is there.
    pub found: Option<String>,
    /// Where the next good record begins, if there is one: nothing between is known to be right.
    pub until: Option<String>,
    /// All of it in words.
    pub message: String,
}

/// Kinds of findings. Their names in JSON are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A page's header is wrong.
    Page,
    /// A record is wrong.
    Record,
    /// There is something where nothing must be.
    Byte,
    /// A segment does not go on where the one before it ends.
    Join,
    /// The first segment of a timeline is not the copy of its parent's that it must be.
    Copy,
    /// A file has not the size of a segment.
    Size,
    /// A file is not the segment that its name says.
    Name,
    /// A file is another server's.
    Foreign,
    /// Segments are missing.
    Missing,
    /// A segment is partial although others follow.
    Partial,
    /// A history file is missing or wrong.
    History,
    /// A file could not be read.
    Unreadable,
}

impl Finding {
    /// A finding about a file as a whole.
    pub fn of_file(kind: Kind, file: String, message: impl Into<String>) -> Finding {
        Finding {
            kind,
            file,
            offset: None,
            lsn: None,
            expected: None,
            found: None,
            until: None,
            message: message.into(),
        }
    }

    /// The same with what was expected and what was found.
    pub fn with_values(self, expected: impl fmt::Display, found: impl fmt::Display) -> Finding {
        Finding {
            expected: Some(expected.to_string()),
            found: Some(found.to_string()),
            ..self
        }
    }

    /// The same with its place: an offset in bytes in the file, and the position in the log.
    pub fn at(self, offset: u64, lsn: Lsn) -> Finding {
        Finding {
            offset: Some(offset),
            lsn: Some(lsn.to_string()),
            ..self
        }
    }

    /// A damage within a file, `offset` bytes from its beginning.
    pub fn of_damage(damage: &Damage, file: String, offset: u64) -> Finding {
        let Damage { fault, within, until } = *damage;
        let kind = match (fault.place, fault.flaw) {
            (Place::Page(_), Flaw::SystemIdentifier { .. }) => Kind::Foreign,
            (Place::Page(_), _) => Kind::Page,
            (Place::Record(_), _) => Kind::Record,
            (Place::Byte(_), _) => Kind::Byte,
        };
        let mut message = fault.to_string();
        if let Some(start) = within {
            message += &format!(" (in the record at {start})");
        }
        let until = until.filter(|&until| until > fault.place.lsn());
        message += &match until {
            Some(until) => format!("; the next good record is at {until}"),
            None => "; no good record follows in the segment".to_owned(),
        };
        let (expected, found) = values(&fault);
        Finding {
            expected,
            found: Some(found),
            until: until.map(|until| until.to_string()),
            ..Finding::of_file(kind, file, message).at(offset, fault.place.lsn())
        }
    }
}

/// `FILE: offset N: what`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(offset) = self.offset {
            write!(f, "offset {offset}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What was expected, if that can be said in a value, and what was found.
fn values(fault: &Fault) -> (Option<String>, String) {
    let some = |value: String| Some(value);
    match fault.flaw {
        Flaw::Magic { expected, found } => (
            expected.map(|magic| format!("{magic:04X}")),
            format!("{found:04X}"),
        ),
        Flaw::Flags(found) => (None, format!("{found:04X}")),
        Flaw::HeaderLength { long: true } => (some("long header".into()), "short header".into()),
        Flaw::HeaderLength { long: false } => (some("short header".into()), "long header".into()),
        Flaw::Address { expected, found }
        | Flaw::Previous { expected, found }
        | Flaw::Overwritten { expected, found } => (some(expected.to_string()), found.to_string()),
        Flaw::PageTimeline {
            expected: (least, most),
            found,
        } if least == most => (some(most.to_string()), found.to_string()),
        Flaw::PageTimeline {
            expected: (least, most),
            found,
        } => (some(format!("{least} to {most}")), found.to_string()),
        Flaw::SystemIdentifier { expected, found } => (some(expected.to_string()), found.to_string()),
        Flaw::SegmentSize { expected, found } => (some(expected.to_string()), found.to_string()),
        Flaw::BlockSize { expected, found } => (expected.map(|size| size.to_string()), found.to_string()),
        Flaw::Continuation { expected, found } => (some(expected.to_string()), found.to_string()),
        Flaw::Padding(found) => (some("00000000".into()), format!("{found:08X}")),
        Flaw::NoRecord => (some("a record".into()), "length 0".into()),
        Flaw::Length(found) => (None, found.to_string()),
        Flaw::Manager(found) => (None, found.0.to_string()),
        Flaw::Crc { expected, found } => (some(format!("{expected:08X}")), format!("{found:08X}")),
        Flaw::NotZero(found) => (some("00".into()), format!("{found:02X}")),
        _ => (None, fault.flaw.to_string()),
    }
}
