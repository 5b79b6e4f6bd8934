//! Where within a segment a start goes on: where every byte before it is proven to be there, by code that knows what
//! was written.

mod model;

use std::collections::BTreeMap;
use std::io::Cursor;

use model::segment_size;
use model::wal::{Shape, Unit, Wal};
use walring::core::lsn::{Lsn, Timeline};
use walring::core::resume::{Resumed, Stored, go_on};
use walring::core::start::{Facts, Position, SegmentFile, plan};
use walring::core::wal::decoder::Expected;
use walring::core::wal::fault::Fault;
use walring::error::{Error, Result};

/// The files of a directory by their names.
struct Directory(BTreeMap<String, Vec<u8>>);

impl Stored for Directory {
    type Reader = Cursor<Vec<u8>>;

    fn open(&self, name: &str) -> Result<Self::Reader> {
        Ok(Cursor::new(self.0[name].clone()))
    }

    fn failed_read(&self, name: &str, error: &std::io::Error) -> Error {
        Error::disk(format!("{name}: {error}"))
    }

    fn damaged(&self, name: &str, fault: &Fault) {
        panic!("{name}: {fault}");
    }
}

impl Directory {
    /// The log as a receiver left it that was killed: complete segments, and a partial.
    fn of(wal: &Wal) -> Directory {
        let size = segment_size();
        let mut files = BTreeMap::new();
        let mut start = wal.start();
        while start < wal.end() {
            let end = (start + size.bytes()).min(wal.end());
            let mut content = wal.bytes(start, end).to_vec();
            content.resize(size.bytes() as usize, 0);
            let name = size.segment_of(Lsn(start)).file_name(Timeline(1), size);
            let is_complete = end - start == size.bytes();
            files.insert(if is_complete { name } else { name + ".partial" }, content);
            start += size.bytes();
        }
        Directory(files)
    }

    /// Where a start goes on, with a server that is far ahead.
    fn goes_on(&self, wal: &Wal) -> u64 {
        self.resumed(wal).decoder.position().0
    }

    fn resumed(&self, wal: &Wal) -> Resumed {
        let files: Vec<_> = self.0.iter().map(|(name, content)| file(name, content)).collect();
        let server = Position {
            lsn: Lsn(wal.end() + (1 << 30)),
            timeline: Timeline(1),
        };
        let plan = plan(&Facts {
            files: &files,
            segment_size: segment_size(),
            requested: None,
            slot: None,
            server,
        });
        let expected = Expected {
            segment_size: segment_size(),
            timeline: Timeline(1),
            system_identifier: Some(wal.shape().system_identifier),
        };
        go_on(self, None, &files, &plan, expected).expect("a place")
    }
}

fn file(name: &str, content: &[u8]) -> SegmentFile {
    SegmentFile {
        wal_bytes: Some(content.len() as u64),
        ..SegmentFile::from_name(name, segment_size()).expect("a segment's name")
    }
}

/// A record that crosses from the first segment into the second, and commits behind it.
fn crossing() -> Wal {
    let mut wal = Wal::empty(1, Shape::default());
    wal.approach(Unit::Segment, 4096);
    wal.record(30_000);
    for _ in 0..20 {
        wal.commit();
    }
    wal
}

#[test]
fn a_start_goes_on_behind_the_last_record() {
    let wal = crossing();
    let place = Directory::of(&wal).goes_on(&wal);
    assert_eq!(place.next_multiple_of(8), wal.end().next_multiple_of(8));
}

#[test]
fn a_record_that_was_left_half_written_is_received_again() {
    let mut wal = Wal::empty(1, Shape::default());
    wal.commit();
    let (start, _) = {
        wal.die_within(3);
        wal.abandoned()[0]
    };
    for _ in 0..20 {
        wal.commit();
    }
    let place = Directory::of(&wal).goes_on(&wal);
    assert!(
        place <= start,
        "{place:X} lies behind {start:X}, and no CRC covers what is there"
    );
    assert!(place > wal.start());
}

#[test]
fn only_where_its_beginning_is_not_here_a_rest_is_unproven() {
    let wal = crossing();
    let mut directory = Directory::of(&wal);
    assert_eq!(directory.resumed(&wal).unproven, None);
    let first = directory.0.pop_first().expect("a segment");
    let start = segment_size()
        .end_of(segment_size().segment_of(Lsn(wal.start())))
        .0;
    let behind = wal.records().iter().find(|record| record.start >= start);
    let resumed = directory.resumed(&wal);
    assert_eq!(resumed.unproven, Some(Lsn(behind.expect("a record").start)));
    assert_eq!(
        resumed.decoder.position().0.next_multiple_of(8),
        wal.end().next_multiple_of(8)
    );
    // The beginning of the record alone is enough.
    let (name, content) = first;
    directory.0.insert(name, content);
    assert_eq!(directory.resumed(&wal).unproven, None);
}

#[test]
fn a_partial_that_begins_with_a_record_proves_itself() {
    let mut wal = Wal::empty(1, Shape::default());
    wal.commit();
    wal.switch();
    for _ in 0..20 {
        wal.commit();
    }
    let mut directory = Directory::of(&wal);
    directory.0.pop_first().expect("a segment");
    assert_eq!(directory.resumed(&wal).unproven, None);
    assert_eq!(
        directory.goes_on(&wal).next_multiple_of(8),
        wal.end().next_multiple_of(8)
    );
}
