//! What records say.

use super::page::{Version, u16_at, u32_at, u64_at};
use super::record::{RECORD_HEADER, Record, ResourceManager};
use crate::core::timestamp::Timestamp;

const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_TRANSACTION: u8 = 252;
const ID_DATA_SHORT: u8 = 255;
const ID_DATA_LONG: u8 = 254;
/// The greatest number of a block that a record refers to.
const LAST_BLOCK: u8 = 32;

const HAS_IMAGE: u8 = 0x10;
const SAME_RELATION: u8 = 0x80;
const RELATION: usize = 12;
const IMAGE_HAS_HOLE: u8 = 0x1;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// COMMIT.
    Commit,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ABORT.
    Abort,
    /// ROLLBACK PREPARED.
    AbortPrepared,
}

impl Completion {
    /// How this record ends a transaction, if it does.
    pub fn of(record: &Record) -> Option<Completion> {
        if record.header.manager != ResourceManager::TRANSACTION {
            return None;
        }
        match record.header.info & 0x70 {
            0x00 => Some(Completion::Commit),
            0x20 => Some(Completion::Abort),
            0x30 => Some(Completion::CommitPrepared),
            0x40 => Some(Completion::AbortPrepared),
            _ => None,
        }
    }

    /// Whether the transaction's work counts.
    pub fn is_commit(self) -> bool {
        matches!(self, Completion::Commit | Completion::CommitPrepared)
    }
}

/// The main data of a record that refers to no blocks, as those of transactions do not: as much of it as
/// was kept.
pub fn main_data<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    let mut chunk = record.bytes.get(RECORD_HEADER..)?;
    loop {
        let (&id, rest) = chunk.split_first()?;
        chunk = match id {
            ID_ORIGIN => rest.get(2..)?,
            ID_TOPLEVEL_TRANSACTION => rest.get(4..)?,
            ID_DATA_SHORT => return rest.get(1..),
            ID_DATA_LONG => return rest.get(4..),
            _ => return None,
        };
    }
}

/// When the transaction ended, by the server's clock: microseconds since 2000-01-01 UTC.
pub fn completion_time(record: &Record) -> Option<i64> {
    let data = main_data(record)?;
    (data.len() >= 8).then(|| u64_at(data, 0).cast_signed())
}

/// What a record refers to, told by the headers of its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Blocks of relations.
    pub blocks: u32,
    /// Bytes of images of whole pages, as they are stored: perhaps compressed, without holes.
    pub image_bytes: u64,
    /// Bytes of the data that belong to no block.
    pub main_bytes: u32,
}

/// The parts of a record; `None` if their headers were not kept, or are none.
pub fn parts(record: &Record, version: Version) -> Option<Parts> {
    let mut parts = Parts::default();
    let mut chunk = record.bytes.get(RECORD_HEADER..)?;
    // The headers end where what they announce begins.
    let mut left = u64::from(record.header.total_length).checked_sub(RECORD_HEADER as u64)?;
    let mut announced = 0;
    while left > announced {
        let (&id, rest) = chunk.split_first()?;
        let (header, bytes) = match id {
            ID_ORIGIN => (2, 0),
            ID_TOPLEVEL_TRANSACTION => (4, 0),
            ID_DATA_SHORT => {
                parts.main_bytes = u32::from(*rest.first()?);
                return Some(parts);
            }
            ID_DATA_LONG => {
                parts.main_bytes = rest.get(..4).map(|bytes| u32_at(bytes, 0))?;
                return Some(parts);
            }
            0..=LAST_BLOCK => {
                let block = block_header(rest, version)?;
                parts.blocks += 1;
                parts.image_bytes += block.image_bytes;
                (block.length, block.image_bytes + block.data_bytes)
            }
            _ => return None,
        };
        announced += bytes;
        chunk = rest.get(header..)?;
        left = left.checked_sub(1 + header as u64)?;
    }
    Some(parts)
}

/// The header of a block's part of a record.
struct BlockHeader {
    /// Its own bytes, behind the number.
    length: usize,
    image_bytes: u64,
    data_bytes: u64,
}

fn block_header(bytes: &[u8], version: Version) -> Option<BlockHeader> {
    let (flags, data_bytes) = (*bytes.first()?, u64::from(u16_at(bytes.get(1..3)?, 0)));
    let mut length = 3;
    let mut image_bytes = 0;
    if flags & HAS_IMAGE != 0 {
        let image = bytes.get(length..length + 5)?;
        image_bytes = u64::from(u16_at(image, 0));
        // Until 14 one flag told of compression; since then one for each method.
        let compressed = if version.major() >= 15 { 0x1C } else { 0x2 };
        let has_hole_length = image[4] & compressed != 0 && image[4] & IMAGE_HAS_HOLE != 0;
        length += if has_hole_length { 7 } else { 5 };
    }
    if flags & SAME_RELATION == 0 {
        length += RELATION;
    }
    length += 4;
    Some(BlockHeader {
        length,
        image_bytes,
        data_bytes,
    })
}

/// The end of a transaction, as its record tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// How it ended.
    pub completion: Completion,
    /// When, by the server's clock.
    pub time: Timestamp,
    /// Its number; that of the prepared transaction, if it is one.
    pub transaction: u32,
    /// Subtransactions that ended with it.
    pub subtransactions: u32,
}

/// The transaction that a record ends; `None` if it ends none, or too little of it was kept.
pub fn transaction(record: &Record, version: Version) -> Option<Transaction> {
    let completion = Completion::of(record)?;
    let data = main_data(record)?;
    let time = Timestamp(u64_at(data.get(..8)?, 0).cast_signed());
    let mut transaction = record.header.transaction;
    let mut subtransactions = 0;
    if record.header.info & 0x80 != 0 {
        let mut fields = Fields(data.get(8..)?);
        let holds = fields.number()?;
        let holds = |bit: u32| holds & (1 << bit) != 0;
        if holds(0) {
            fields.pass(8)?;
        }
        if holds(1) {
            subtransactions = fields.pass_items(4)?;
        }
        if holds(2) {
            fields.pass_items(RELATION)?;
        }
        if holds(8) && version.major() >= 15 {
            fields.pass_items(if version.major() >= 18 { 16 } else { 12 })?;
        }
        if holds(3) {
            fields.pass_items(16)?;
        }
        if holds(4) {
            transaction = fields.number()?;
        }
    }
    Some(Transaction {
        completion,
        time,
        transaction,
        subtransactions,
    })
}

/// What is left of a record's data.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number(&mut self) -> Option<u32> {
        let number = u32_at(self.0.get(..4)?, 0);
        self.pass(4)?;
        Some(number)
    }

    fn pass(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    /// Passes a number and so many items; gives the number.
    fn pass_items(&mut self, bytes: usize) -> Option<u32> {
        let count = self.number()?;
        self.pass((count as usize).checked_mul(bytes)?)?;
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::lsn::Lsn;
    use crate::core::wal::record::RecordHeader;

    /// A record of this content, as far as what is tested here looks at it.
    fn with_record<T>(manager: u8, info: u8, content: &[u8], test: impl FnOnce(&Record) -> T) -> T {
        let mut bytes = vec![0; RECORD_HEADER];
        bytes.extend(content);
        let header = RecordHeader {
            total_length: bytes.len() as u32,
            transaction: 700,
            previous: Lsn(1),
            info,
            manager: ResourceManager(manager),
            crc: 0,
        };
        let (start, end) = (Lsn(8), Lsn(8 + bytes.len() as u64));
        test(&Record {
            start,
            end,
            header,
            bytes: &bytes,
        })
    }

    fn version(magic: u16) -> Version {
        Version::of_magic(magic).unwrap()
    }

    #[test]
    fn the_parts_of_a_record_are_told_by_their_headers() {
        // Block 0: an image of 5 bytes, compressed, with a hole; block 1: the same relation, 2 bytes of data.
        let mut content = vec![0, HAS_IMAGE, 0, 0, 5, 0, 9, 0, 0x5, 7, 0];
        content.extend([1; RELATION]);
        content.extend([0, 0, 0, 0]);
        content.extend([1, SAME_RELATION | 0x20, 2, 0, 4, 0, 0, 0]);
        content.extend([ID_ORIGIN, 1, 0, ID_DATA_SHORT, 3]);
        content.extend([0xFF; 5 + 2 + 3]);
        let expected = Parts {
            blocks: 2,
            image_bytes: 5,
            main_bytes: 3,
        };
        let found = with_record(10, 0, &content, |record| parts(record, version(0xD110)));
        assert_eq!(found, Some(expected));
        for cut in 0..content.len() - 13 {
            // However the record is cut, nothing panics.
            with_record(10, 0, &content[..cut], |record| parts(record, version(0xD110)));
        }
    }

    #[test]
    fn a_prepared_transaction_is_known_by_its_own_number() {
        let mut data = 86_400_000_000_i64.to_le_bytes().to_vec();
        data.extend(0b1_1111_u32.to_le_bytes());
        data.extend([0; 8]);
        for (count, bytes) in [(2u32, 4), (1, RELATION), (1, 16)] {
            data.extend(count.to_le_bytes());
            data.extend(vec![9; count as usize * bytes]);
        }
        data.extend(4711u32.to_le_bytes());
        let mut content = vec![ID_DATA_SHORT, data.len() as u8];
        content.extend(&data);
        let found = with_record(1, 0x80 | 0x30, &content, |record| {
            transaction(record, version(0xD110))
        });
        let found = found.unwrap();
        assert_eq!((found.transaction, found.subtransactions), (4711, 2));
        assert_eq!(found.completion, Completion::CommitPrepared);
        assert_eq!(found.time.to_string(), "2000-01-02 00:00:00.000000 UTC");
        for cut in 0..content.len() {
            let found = with_record(1, 0xB0, &content[..cut], |record| {
                transaction(record, version(0xD110))
            });
            assert_eq!(found, None);
        }
    }

    #[test]
    fn numbers_of_items_that_cannot_be_are_no_danger() {
        let mut content = vec![ID_DATA_SHORT, 255];
        content.extend([0xFF; 60]);
        with_record(1, 0x80, &content, |record| {
            assert_eq!(transaction(record, version(0xD118)), None)
        });
        with_record(1, 0x80, &[0xFF; 3], |record| assert!(main_data(record).is_some()));
    }
}
