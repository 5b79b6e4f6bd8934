//! Each thing that can be wrong with the log is told with its place and its values.

mod model;

use model::reading::{Reader, expected, read};
use model::wal::{Shape, Unit, Wal};
use walring::core::lsn::{Lsn, Timeline};
use walring::core::wal::decoder::{Decoder, Depth, Event};
use walring::core::wal::fault::{Fault, Flaw, Place};

const BLOCK: u64 = 8192;

/// Some records on three pages, the last of which begins with the rest of one.
fn some() -> Wal {
    let mut wal = Wal::empty(1, Shape::default());
    wal.record(100);
    wal.approach(Unit::Page, 0);
    wal.record(7000);
    wal.record(7000);
    wal.commit();
    wal
}

/// The third page of [`some`]: it begins with the rest of a record.
const THIRD: u64 = (3 << 20) + 2 * BLOCK;

fn patch(wal: &mut Wal, at: u64, bytes: &[u8]) {
    for (at, byte) in (at..).zip(bytes) {
        *wal.byte_mut(at) = *byte;
    }
}

/// What is told of [`some`] after a change.
#[track_caller]
fn fault_after(at: u64, bytes: &[u8]) -> Fault {
    let mut wal = some();
    patch(&mut wal, at, bytes);
    read(&wal).err().expect("a fault")
}

#[track_caller]
fn assert_told(fault: Fault, place: Place, text: &str) {
    assert_eq!(fault.to_string(), text);
    assert_eq!(fault.place, place);
}

/// A change at an offset of the page, and what is told of the page.
#[track_caller]
fn assert_page(page: u64, offset: u64, bytes: &[u8], text: &str) {
    let fault = fault_after(page + offset, bytes);
    assert_told(
        fault,
        Place::Page(Lsn(page)),
        &format!("page at {}: {text}", Lsn(page)),
    );
}

/// A change at an offset of the third record, which lies in one page, and what is told of the record.
#[track_caller]
fn assert_record(offset: u64, bytes: &[u8], text: &str) {
    let start = some().records()[2].start;
    let fault = fault_after(start + offset, bytes);
    assert_told(
        fault,
        Place::Record(Lsn(start)),
        &format!("record at {}: {text}", Lsn(start)),
    );
}

const FIRST: u64 = 3 << 20;
const SECOND: u64 = FIRST + BLOCK;

// ---- pages ----

#[test]
fn a_magic_number_that_no_server_writes() {
    assert_page(
        FIRST,
        0,
        &[0x34, 0x12],
        "magic number 1234, which no supported server writes",
    );
    assert_page(SECOND, 0, &[0, 0], "magic number 0000, expected D110");
}

#[test]
fn a_magic_number_of_another_version_than_before() {
    assert_page(SECOND, 0, &[0x06, 0xD1], "magic number D106, expected D110");
}

#[test]
fn unknown_flags() {
    assert_page(SECOND, 2, &[0x10], "unknown flags 0010");
}

#[test]
fn flags_are_those_of_the_version() {
    let mut wal = Wal::empty(
        1,
        Shape {
            version: 19,
            ..Shape::default()
        },
    );
    wal.record(9000);
    let flags = wal.byte_mut(SECOND + 2);
    assert_eq!(*flags, 1);
    *flags |= 8;
    let fault = read(&wal).err().expect("a fault");
    assert_eq!(fault.flaw, Flaw::Flags(9));
}

#[test]
fn a_long_header_in_place_of_a_short_one_and_the_other_way() {
    assert_page(FIRST, 2, &[0], "short header on a segment's first page");
    assert_page(
        SECOND,
        2,
        &[2],
        "long header on a page that is not its segment's first",
    );
}

#[test]
fn a_page_of_an_earlier_use_of_the_file() {
    let old = (1u64 << 20) + BLOCK;
    assert_page(
        SECOND,
        8,
        &old.to_le_bytes(),
        "page address 0/102000, expected 0/302000",
    );
}

#[test]
fn a_page_on_a_timeline_that_is_not_the_files() {
    assert_page(SECOND, 4, &[2], "timeline 2, expected 1");
    assert_page(FIRST, 4, &[0], "timeline 0, expected 1");
    let mut wal = Wal::empty(
        1,
        Shape {
            timeline: 5,
            older_pages: 1,
            ..Shape::default()
        },
    );
    wal.record(9000);
    let mut too_new = wal.clone();
    *too_new.byte_mut(SECOND + 4) = 6;
    let fault = read(&too_new).err().expect("a fault");
    assert_eq!(fault.to_string(), "page at 0/302000: timeline 6, expected 4 to 5");
    *wal.byte_mut(SECOND + 4) = 3;
    let expected = (Timeline(4), Timeline(5));
    let found = Timeline(3);
    let fault = read(&wal).err().expect("a fault");
    assert_eq!(fault.flaw, Flaw::PageTimeline { expected, found });
}

#[test]
fn a_segment_of_another_server() {
    let text = "system identifier 1, expected 7296712105459471992";
    assert_page(FIRST, 24, &1u64.to_le_bytes(), text);
}

#[test]
fn the_first_segment_tells_the_server_if_it_is_not_known() {
    let mut wal = some();
    wal.approach(Unit::Segment, 0);
    wal.record(100);
    let next = FIRST + (1 << 20);
    let known = wal.shape().system_identifier;
    *wal.byte_mut(next + 24) += 1;
    let unknown = walring::core::wal::decoder::Expected {
        system_identifier: None,
        ..expected(wal.shape())
    };
    let mut decoder = Decoder::new(unknown, Depth::Records, Lsn(FIRST), 100);
    let mut input = wal.all();
    let fault = loop {
        match decoder.next(&mut input) {
            Ok(event) => assert!(event.is_some(), "no fault"),
            Err(fault) => break fault,
        }
    };
    assert_eq!(decoder.system_identifier(), Some(known));
    let flaw = Flaw::SystemIdentifier {
        expected: known,
        found: known + 1,
    };
    assert_eq!(
        fault,
        Fault {
            place: Place::Page(Lsn(next)),
            flaw
        }
    );
}

#[test]
fn a_segment_of_another_size() {
    let text = "segment size of 16777216 bytes, expected 1048576";
    assert_page(FIRST, 32, &(16u32 << 20).to_le_bytes(), text);
}

#[test]
fn a_page_size_that_no_server_has_and_one_that_the_others_have_not() {
    for size in [0u32, 512, 3000, 1 << 17] {
        let text = format!("page size of {size} bytes, which no server has");
        assert_page(FIRST, 36, &size.to_le_bytes(), &text);
    }
    let mut wal = some();
    wal.approach(Unit::Segment, 0);
    wal.record(100);
    let next = FIRST + (1 << 20);
    patch(&mut wal, next + 36, &4096u32.to_le_bytes());
    let fault = read(&wal).err().expect("a fault");
    let text = format!("page at {}: page size of 4096 bytes, expected 8192", Lsn(next));
    assert_told(fault, Place::Page(Lsn(next)), &text);
}

#[test]
fn a_page_that_goes_on_with_another_rest_than_is_missing() {
    let record = some().records()[3];
    let missing = record.end - THIRD - 24;
    let told = u32::from_le_bytes(some().bytes(THIRD + 16, THIRD + 20).try_into().unwrap());
    assert_eq!(missing, u64::from(told), "the picture is right");
    let text = format!(
        "goes on with {} bytes of a record, expected {missing}",
        missing + 1
    );
    assert_page(THIRD, 16, &(told + 1).to_le_bytes(), &text);
    let without = [
        [0; 2].to_vec(),
        some().bytes(THIRD + 4, THIRD + 16).to_vec(),
        [0; 4].to_vec(),
    ]
    .concat();
    let text = format!("does not go on with a record, expected {missing} bytes of one");
    assert_page(THIRD, 2, &without, &text);
}

#[test]
fn a_page_that_goes_on_with_a_record_although_none_has_begun() {
    let address = SECOND.to_le_bytes();
    let head = [&[1, 0, 1, 0, 0, 0][..], &address, &[7, 0, 0, 0]].concat();
    assert_page(
        SECOND,
        2,
        &head,
        "goes on with 7 bytes of a record, expected none",
    );
}

#[test]
fn flags_and_a_rest_that_contradict_each_other() {
    assert_page(SECOND, 2, &[1], "flags 0001 contradict a rest of 0 bytes");
    assert_page(SECOND, 16, &[5], "flags 0000 contradict a rest of 5 bytes");
    let told = u32::from_le_bytes(some().bytes(THIRD + 16, THIRD + 20).try_into().unwrap());
    assert_page(
        THIRD,
        2,
        &[9],
        &format!("flags 0009 contradict a rest of {told} bytes"),
    );
}

#[test]
fn padding_of_a_header_that_is_not_zero() {
    assert_page(
        SECOND,
        20,
        &[0x78, 0x56, 0x34, 0x12],
        "header padding 12345678, expected zero",
    );
}

// ---- records ----

#[test]
fn the_end_of_the_log() {
    assert_record(0, &[0; 4], "length 0: the log ends here");
    let mut wal = some();
    let end = wal.end();
    wal.zeros(BLOCK as usize);
    let mut reader = Reader::of(&wal);
    let fault = reader.feed(wal.all()).expect_err("the end");
    assert_eq!(fault.flaw, Flaw::NoRecord);
    assert_eq!(fault.place, Place::Record(Lsn(end.next_multiple_of(8))));
    assert_eq!(reader.decoder.verified(), fault.place.lsn());
}

#[test]
fn a_length_that_no_record_has() {
    assert_record(0, &[23, 0, 0, 0], "length 23, which no record has");
    assert_record(0, &[1, 0, 0, 0], "length 1, which no record has");
    let longest = 1020u32 << 20;
    let text = format!("length {}, which no record has", longest + 1);
    assert_record(0, &(longest + 1).to_le_bytes(), &text);
}

#[test]
fn a_record_that_names_another_one_as_the_one_before() {
    let text = "previous record at 0/300028, expected ";
    let before = some().records()[1].start;
    assert_record(8, &(FIRST + 40).to_le_bytes(), &format!("{text}{}", Lsn(before)));
}

#[test]
fn a_first_record_that_names_one_behind_itself() {
    let mut wal = some();
    patch(&mut wal, FIRST + 40 + 8, &(FIRST + 40).to_le_bytes());
    let fault = read(&wal).err().expect("a fault");
    let text = "record at 0/300028: previous record at 0/300028, expected 0/300027";
    assert_told(fault, Place::Record(Lsn(FIRST + 40)), text);
}

#[test]
fn a_resource_manager_that_the_version_has_not() {
    assert_record(17, &[22], "resource manager 22, which does not exist");
    for (version, manager, exists) in [
        (19, 22, true),
        (18, 22, false),
        (19, 23, false),
        (15, 127, false),
        (14, 128, false),
        (15, 128, true),
        (18, 255, true),
        (12, 21, true),
    ] {
        let mut wal = Wal::empty(
            1,
            Shape {
                version,
                ..Shape::default()
            },
        );
        wal.put(manager, 0, &[255, 0], None);
        assert_eq!(read(&wal).is_ok(), exists, "{manager} in {version}");
    }
}

#[test]
fn content_that_is_not_what_the_server_wrote() {
    let mut wal = some();
    let record = wal.records()[2];
    *wal.byte_mut(record.start + 1000) ^= 1;
    let content = wal.content(&record);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&content[24..]), &content[..20]);
    let expected = u32::from_le_bytes(content[20..24].try_into().unwrap());
    let fault = read(&wal).err().expect("a fault");
    let text = format!(
        "record at {}: CRC of the content {crc:08X}, expected {expected:08X}",
        Lsn(record.start)
    );
    assert_told(fault, Place::Record(Lsn(record.start)), &text);
}

#[test]
fn content_of_a_record_in_parts_that_is_not_what_the_server_wrote() {
    let mut wal = some();
    let record = wal.records()[3];
    *wal.byte_mut(record.end - 1) ^= 1;
    let fault = read(&wal).err().expect("a fault");
    assert!(matches!(fault.flaw, Flaw::Crc { .. }), "{fault}");
    assert_eq!(fault.place, Place::Record(Lsn(record.start)));
}

// ---- replaced records ----

/// A record in the middle of which the server died, up to the page that does not go on with it.
fn half() -> (Wal, u64, u64) {
    let mut wal = Wal::empty(1, Shape::default());
    wal.record(100);
    let (start, page) = wal.half_record(2);
    wal.page(0, true);
    (wal, start, page)
}

#[test]
fn a_page_that_should_begin_with_a_replacement_and_does_not() {
    let (mut wal, start, page) = half();
    wal.record(100);
    let text = format!(
        "record at {}: flagged to replace a half-written record, which its first record does not",
        Lsn(page + 24)
    );
    let mut reader = Reader::of(&wal);
    let fault = reader.feed(wal.all()).expect_err("a fault");
    assert_told(fault, Place::Record(Lsn(page + 24)), &text);
    assert_eq!(
        reader.decoder.verified(),
        Lsn(start),
        "the half record may go on after all"
    );
}

#[test]
fn a_replacement_of_another_record() {
    let (mut wal, start, page) = half();
    wal.overwrite(start + 8);
    for keep in [0, 8 << 20] {
        let mut reader = Reader::new(&wal, Depth::Records, keep);
        let fault = wal
            .all()
            .chunks(11)
            .find_map(|portion| reader.feed(portion).err());
        let text = format!(
            "record at {}: replaces the half-written record at {}, expected {}",
            Lsn(page + 24),
            Lsn(start + 8),
            Lsn(start)
        );
        assert_told(fault.expect("a fault"), Place::Record(Lsn(page + 24)), &text);
    }
}

#[test]
fn a_replacement_is_checked_also_when_few_bytes_are_kept() {
    let (mut wal, start, _) = half();
    wal.overwrite(start);
    let mut reader = Reader::new(&wal, Depth::Records, 0);
    for portion in wal.all().chunks(11) {
        reader.feed(portion).expect("right");
    }
    assert_eq!(reader.decoder.verified(), Lsn(wal.end()));
}

#[test]
fn a_page_that_replaces_although_nothing_is_half_written() {
    let text = "flagged to replace a half-written record, and there is none";
    assert_page(SECOND, 2, &[8], text);
}

#[test]
fn a_replacement_on_a_page_that_is_not_flagged() {
    let mut wal = some();
    let record = wal.overwrite(FIRST + 40);
    let fault = read(&wal).err().expect("a fault");
    let text = format!(
        "record at {}: replaces a half-written record on a page that is not flagged so",
        Lsn(record.start)
    );
    assert_told(fault, Place::Record(Lsn(record.start)), &text);
}

#[test]
fn a_replacement_on_the_first_page_replaces_what_was_not_fed() {
    let mut wal = Wal::empty(1, Shape::default());
    wal.approach(Unit::Segment, 8000);
    wal.die_within(1);
    wal.commit();
    let part = wal.without_segments(1);
    let mut decoder = Decoder::new(expected(part.shape()), Depth::Records, Lsn(part.start()), 0);
    let mut input = part.all();
    let event = decoder.next(&mut input).expect("right");
    assert!(matches!(event, Some(Event::Abandoned(None))), "{event:?}");
    assert_eq!(decoder.verified(), Lsn(part.start()), "nothing is known yet");
    assert_eq!(read(&part).expect("right").records(), part.records());
}

// ---- what must be zero ----

#[test]
fn padding_between_records_that_is_not_zero() {
    let mut wal = Wal::empty(1, Shape::default());
    let record = wal.record(101);
    wal.record(100);
    *wal.byte_mut(record.end + 2) = 0xAB;
    let fault = read(&wal).err().expect("a fault");
    let at = Lsn(record.end + 2);
    assert_told(
        fault,
        Place::Byte(at),
        &format!("byte at {at}: is AB, expected zero"),
    );
}

#[test]
fn a_byte_behind_a_switch() {
    let mut wal = Wal::empty(1, Shape::default());
    wal.switch();
    let at = FIRST + 700_000;
    *wal.byte_mut(at) = 1;
    let fault = read(&wal).err().expect("a fault");
    assert_told(
        fault,
        Place::Byte(Lsn(at)),
        &format!("byte at {}: is 01, expected zero", Lsn(at)),
    );
}

// ---- the headers of pages alone ----

#[test]
fn pages_are_checked_without_their_records() {
    let shape = Shape {
        length: 3 << 20,
        switches: 5,
        ..Shape::default()
    };
    let wal = Wal::new(5, shape);
    for size in [1 << 20, 5000, 13] {
        let mut reader = Reader::new(&wal, Depth::Pages, 0);
        for portion in wal.all().chunks(size) {
            reader.feed(portion).expect("right");
        }
        let pages = (wal.start()..wal.end())
            .step_by(8192)
            .filter(|&page| !wal.is_behind_switch(page));
        assert_eq!(reader.seen.len(), pages.count());
        assert_eq!(reader.decoder.records(), 0);
    }
    let mut damaged = wal.clone();
    *damaged.byte_mut(SECOND + 8) ^= 1;
    let mut reader = Reader::new(&damaged, Depth::Pages, 0);
    let fault = reader.feed(damaged.all()).expect_err("a fault");
    assert_eq!(fault.place, Place::Page(Lsn(SECOND)));
    *damaged.byte_mut(SECOND + 8) ^= 1;
    *damaged.byte_mut(SECOND + 100) ^= 1;
    let mut reader = Reader::new(&damaged, Depth::Pages, 0);
    reader.feed(damaged.all()).expect("records are not looked at");
}

#[test]
fn a_page_of_zeros_is_not_verified_before_the_segment_is_empty_to_its_end() {
    let mut wal = some();
    let (from, to) = (SECOND, SECOND + BLOCK);
    let page = wal.bytes(from, to).to_vec();
    patch(&mut wal, from, &vec![0; BLOCK as usize]);
    let mut reader = Reader::new(&wal, Depth::Pages, 0);
    let fault = reader.feed(wal.all()).expect_err("a page behind zeros");
    assert_eq!(fault.place, Place::Byte(Lsn(THIRD)));
    assert_eq!(reader.decoder.verified(), Lsn(from));
    reader.rewind();
    patch(&mut wal, from, &page);
    reader.feed(wal.bytes(from, wal.end())).expect("right");
    assert_eq!(reader.decoder.verified(), Lsn(wal.end()));
}

// ---- what is no log at all ----

#[test]
fn garbage_zeros_and_text_are_no_log() {
    let shape = Shape::default();
    let expected = expected(&shape);
    let mut garbage = vec![0; 5000];
    fastrand::Rng::with_seed(1).fill(&mut garbage);
    for bytes in [vec![0; 5000], b"<html>".repeat(900), garbage] {
        for depth in [Depth::Pages, Depth::Records] {
            let mut decoder = Decoder::new(expected, depth, Lsn(FIRST), 100);
            let fault = decoder.next(&mut &bytes[..]).expect_err("no log");
            assert_eq!(fault.place, Place::Page(Lsn(FIRST)));
            assert!(
                matches!(fault.flaw, Flaw::Magic { expected: None, .. }),
                "{fault}"
            );
            assert_eq!(decoder.verified(), Lsn(FIRST));
        }
    }
}

#[test]
fn the_very_last_segment_is_read_to_its_end() {
    let first_segment = (1 << 44) - 1;
    let mut wal = Wal::empty(
        1,
        Shape {
            first_segment,
            ..Shape::default()
        },
    );
    let mut records = 0;
    while wal.all().len() < (1 << 20) - 40_000 {
        wal.record(9000);
        records += 1;
    }
    let mut decoder = Decoder::new(expected(wal.shape()), Depth::Records, Lsn(wal.start()), 100);
    let mut bytes = wal.all().to_vec();
    bytes.resize(1 << 20, 0);
    let mut input = &bytes[..];
    while let Ok(Some(_)) = decoder.next(&mut input) {}
    assert_eq!(decoder.records(), records);
    let mut decoder = Decoder::new(expected(wal.shape()), Depth::Pages, Lsn(wal.start()), 100);
    let mut input = &bytes[..];
    while let Some(_event) = decoder.next(&mut input).expect("empty to the end") {}
}
