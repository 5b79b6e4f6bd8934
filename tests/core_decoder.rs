//! The decoder finds every record and every damage, however the log is cut into portions.

mod model;

use fastrand::Rng;
use model::reading::{Reader, Seen, read};
use model::wal::{Shape, Unit, Wal};
use model::{Seed, seeds};
use walring::core::lsn::Lsn;
use walring::core::wal::fault::Flaw;

/// Pages of 1 KiB, and nothing that is long.
fn small() -> Shape {
    Shape {
        block: 1024,
        length: 24 << 10,
        longest: 3000,
        switches: 0,
        deaths: 10,
        ..Shape::default()
    }
}

fn random_wal(seed: u64) -> Wal {
    Wal::new(seed, Shape::random(&mut Rng::with_seed(seed)))
}

// ---- what is there is found ----

#[test]
fn every_record_is_found_with_its_bytes_and_the_time_of_its_commit() {
    for seed in seeds(40) {
        let _seed = Seed(seed);
        let wal = random_wal(seed);
        let reader = read(&wal).expect("right");
        assert_eq!(reader.records(), wal.records());
        let mut written = wal.records().iter();
        for seen in &reader.seen {
            if let Seen::Record(_, bytes) = seen {
                assert_eq!(*bytes, wal.content(written.next().expect("as many")));
            }
        }
        assert_eq!(reader.decoder.verified(), Lsn(wal.end()));
        assert_eq!(reader.decoder.records(), wal.records().len() as u64);
        let version = reader.decoder.version().expect("told").major();
        assert_eq!(version, wal.shape().version);
    }
}

#[test]
fn every_version_and_page_size_is_read() {
    for version in 12..=19 {
        for shift in 10..=16 {
            let block = 1 << shift;
            let shape = Shape {
                version,
                block,
                length: 3 * block,
                deaths: 50,
                ..Shape::default()
            };
            let wal = Wal::new(u64::from(version), shape);
            let reader = read(&wal).expect("right");
            assert_eq!(
                reader.records(),
                wal.records(),
                "version {version}, block {block}"
            );
        }
    }
}

#[test]
fn every_page_is_told_of_and_every_abandoned_record() {
    for seed in seeds(20) {
        let _seed = Seed(seed);
        let wal = random_wal(seed);
        let seen = read(&wal).expect("right").seen;
        let abandoned = seen.iter().filter_map(|seen| match seen {
            Seen::Abandoned(start) => Some(start.expect("its beginning was fed")),
            _ => None,
        });
        let expected = wal.abandoned().iter().map(|&(start, _)| start);
        assert!(abandoned.eq(expected));
        let pages = seen.iter().filter(|seen| !matches!(seen, Seen::Record(..)));
        let mut starts = (wal.start()..wal.end())
            .step_by(wal.shape().block as usize)
            .collect::<Vec<_>>();
        starts.retain(|&page| !wal.is_behind_switch(page));
        assert_eq!(pages.count(), starts.len());
    }
}

#[test]
fn any_portions_give_the_same_events() {
    for seed in seeds(25) {
        let _seed = Seed(seed);
        let wal = random_wal(seed);
        let whole = read(&wal).expect("right").seen;
        let mut rng = Rng::with_seed(seed);
        for _ in 0..3 {
            let mut reader = Reader::of(&wal);
            reader.feed_in_portions(wal.all(), &mut rng).expect("right");
            assert!(reader.seen == whole);
        }
    }
}

#[test]
fn single_bytes_give_the_same_events() {
    for seed in seeds(6) {
        let _seed = Seed(seed);
        let wal = Wal::new(
            seed,
            Shape {
                switches: 2,
                length: 100 << 10,
                ..small()
            },
        );
        let whole = read(&wal).expect("right").seen;
        let mut reader = Reader::of(&wal);
        for byte in wal.all().chunks(1) {
            reader.feed(byte).expect("right");
        }
        assert!(reader.seen == whole);
    }
}

#[test]
fn a_log_may_begin_with_the_rest_of_a_record() {
    for seed in seeds(40) {
        let _seed = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let shape = Shape {
            length: 5 << 19,
            longest: 2 << 20,
            deaths: 20,
            switches: 30,
            ..Shape::random(&mut rng)
        };
        let wal = Wal::new(
            seed,
            Shape {
                older_pages: 0,
                ..shape
            },
        );
        for segment in 1..=2 {
            let part = wal.without_segments(segment);
            let mut reader = Reader::of(&part);
            reader.feed_in_portions(part.all(), &mut rng).expect("right");
            assert_eq!(reader.records(), part.records());
            assert_eq!(reader.decoder.verified(), Lsn(part.end()));
        }
    }
}

/// Every place at which a switch can lie: its header in one piece, in two, across segments.
#[test]
fn behind_a_switch_the_segment_is_empty_wherever_the_switch_lies() {
    for (unit, left) in [Unit::Page, Unit::Segment]
        .into_iter()
        .flat_map(|unit| [0, 8, 16, 24, 32].map(|left| (unit, left)))
    {
        let mut wal = Wal::empty(1, Shape::default());
        wal.record(100);
        wal.approach(unit, left);
        let switch = wal.switch();
        let end = wal.end();
        wal.record(200);
        let reader = read(&wal).unwrap_or_else(|fault| panic!("{unit:?} {left}: {fault}"));
        assert_eq!(reader.records(), wal.records());
        // Alone, the segment that the switch ends: its beginning is in the one before, or is not.
        let part = wal.without_segments(end / (1 << 20) - 1 - wal.shape().first_segment);
        assert_eq!(read(&part).expect("right").records(), part.records());
        if end > switch.end {
            *wal.byte_mut(end - 1) = 1;
            let fault = read(&wal).err().expect("a byte behind the switch");
            assert_eq!(fault.flaw, Flaw::NotZero(1));
            assert_eq!(fault.place.lsn(), Lsn(end - 1));
        }
    }
}

// ---- what is damaged is found ----

/// Whether the format tells that this bit is wrong.
fn can_be_told(wal: &Wal, at: u64, bit: u32) -> bool {
    let in_page = at % wal.shape().block;
    let page = at - in_page;
    if wal.is_behind_switch(at) {
        return true;
    }
    if in_page < wal.header_length(page) {
        // Whether full-page images may be removed. A timeline that is not the file's is allowed.
        let removable = wal.shape().version < 19 && in_page == 2 && bit == 2;
        let timeline = wal.shape().timeline > 1 && (4..8).contains(&in_page);
        return !removable && !timeline;
    }
    let abandoned = |&(start, page): &(u64, u64)| start <= at && at < page;
    at >= wal.rest_end() && !wal.abandoned().iter().any(abandoned)
}

#[test]
fn every_single_wrong_bit_is_found() {
    for version in [12, 15, 19] {
        let mut wal = Wal::new(
            1,
            Shape {
                version,
                length: 5000,
                longest: 1500,
                deaths: 60,
                ..small()
            },
        );
        let mut rng = Rng::with_seed(7);
        let last_page = wal.end() - wal.end() % 1024;
        for at in wal.start()..last_page {
            // One bit of each byte, every bit of the headers of pages.
            let bits = if at % 1024 < 40 {
                0..8
            } else {
                let bit = rng.u32(0..8);
                bit..bit + 1
            };
            for bit in bits {
                if !can_be_told(&wal, at, bit) {
                    continue;
                }
                *wal.byte_mut(at) ^= 1 << bit;
                let result = read(&wal);
                *wal.byte_mut(at) ^= 1 << bit;
                assert!(result.is_err(), "bit {bit} at {} of version {version}", Lsn(at));
            }
        }
    }
}

#[test]
fn a_wrong_bit_anywhere_in_a_large_log_is_found() {
    for seed in seeds(60) {
        let _seed = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let mut wal = random_wal(seed);
        let last_page = wal.end() - 1 - (wal.end() - 1) % wal.shape().block;
        for _ in 0..2 {
            let (at, bit) = (rng.u64(wal.start()..last_page), rng.u32(0..8));
            if !can_be_told(&wal, at, bit) {
                continue;
            }
            *wal.byte_mut(at) ^= 1 << bit;
            let mut reader = Reader::of(&wal);
            let result = reader.feed_in_portions(wal.all(), &mut rng);
            assert!(result.is_err(), "bit {bit} at {}", Lsn(at));
            assert!(reader.decoder.verified() <= Lsn(at), "bit {bit} at {}", Lsn(at));
            *wal.byte_mut(at) ^= 1 << bit;
        }
    }
}

// ---- going back ----

/// What must be verified when the log was fed up to a position.
fn verified_at(wal: &Wal, cut: u64) -> u64 {
    if cut < wal.rest_end() {
        return wal.start();
    }
    let index = wal.records().partition_point(|record| record.start < cut);
    let before = index.checked_sub(1).map(|index| wal.records()[index]);
    // From where a half-written record begins to the end of the one that replaces it.
    for &(start, page) in wal.abandoned() {
        let replacement = wal.records().partition_point(|record| record.start < page);
        if start < cut && cut < wal.records()[replacement].end {
            return start.max(wal.start());
        }
    }
    let page = cut - cut % wal.shape().block;
    match before {
        Some(record) if cut < record.end => record.start,
        _ if !wal.is_behind_switch(page) && cut - page < wal.header_length(page) => page,
        _ => cut,
    }
}

#[test]
fn exactly_what_is_complete_is_verified_and_the_rest_can_be_fed_again() {
    for seed in seeds(60) {
        let _seed = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let shape = Shape {
            length: 9 << 17,
            deaths: 20,
            switches: 5,
            ..Shape::random(&mut rng)
        };
        let wal = Wal::new(
            seed,
            Shape {
                older_pages: 0,
                ..shape
            },
        );
        let wal = if rng.bool() { wal } else { wal.without_segments(1) };
        let mut reader = Reader::of(&wal);
        let mut interesting: Vec<u64> = wal.records().iter().map(|record| record.start).collect();
        interesting.extend(wal.abandoned().iter().map(|&(_, page)| page));
        interesting.extend((wal.start()..wal.end()).step_by(wal.shape().block as usize));
        let mut cuts = Vec::new();
        for _ in 0..60 {
            cuts.push(interesting[rng.usize(0..interesting.len())] + rng.u64(0..50));
            cuts.push(rng.u64(wal.start()..wal.end()));
        }
        cuts.retain(|&cut| cut <= wal.end());
        cuts.sort_unstable();
        for cut in cuts {
            let from = reader.decoder.position().0;
            reader
                .feed_in_portions(wal.bytes(from, cut.max(from)), &mut rng)
                .expect("right");
            let cut = cut.max(from);
            assert_eq!(
                reader.decoder.verified(),
                Lsn(verified_at(&wal, cut)),
                "fed up to {}",
                Lsn(cut)
            );
            reader.rewind();
        }
        let from = reader.decoder.position().0;
        reader.feed(wal.bytes(from, wal.end())).expect("right");
        assert_eq!(reader.records(), wal.records());
    }
}

#[test]
fn after_a_fault_the_right_bytes_go_on() {
    for seed in seeds(40) {
        let _seed = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let shape = Shape {
            length: 200 << 10,
            older_pages: 0,
            ..Shape::random(&mut rng)
        };
        let wal = Wal::new(seed, shape);
        let mut reader = Reader::of(&wal);
        let last_page = wal.end() - 1 - (wal.end() - 1) % wal.shape().block;
        for _ in 0..10 {
            let from = reader.decoder.position().0;
            if from >= last_page {
                break;
            }
            let (at, bit) = (rng.u64(from..last_page.min(from + 30_000)), rng.u32(0..8));
            if !can_be_told(&wal, at, bit) {
                continue;
            }
            let mut damaged = wal.bytes(from, wal.end()).to_vec();
            damaged[(at - from) as usize] ^= 1 << bit;
            reader.feed_in_portions(&damaged, &mut rng).expect_err("damaged");
            reader.rewind();
        }
        let from = reader.decoder.position().0;
        reader.feed(wal.bytes(from, wal.end())).expect("right");
        assert_eq!(reader.records(), wal.records());
    }
}

#[test]
fn a_fault_is_told_again_if_the_same_bytes_come_again() {
    let mut wal = Wal::empty(3, small());
    wal.record(500);
    let record = wal.record(5000);
    wal.record(100);
    *wal.byte_mut(record.end - 1) ^= 1;
    let mut reader = Reader::of(&wal);
    let first = reader.feed(wal.all()).expect_err("damaged");
    let from = reader.decoder.position().0;
    let again = reader.feed(wal.bytes(from, wal.end())).expect_err("damaged");
    assert_eq!(first, again);
    *wal.byte_mut(record.end - 1) ^= 1;
    reader
        .feed(wal.bytes(from, wal.end()))
        .expect("right, even without going back");
    assert_eq!(reader.records(), wal.records());
}

/// The connection breaks, the server dies, and what it wrote last is replaced when it comes back.
#[test]
fn what_a_server_replaced_when_it_came_back_is_read_after_going_back() {
    for seed in seeds(200) {
        let _seed = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let mut before = Wal::empty(
            seed,
            Shape {
                deaths: 0,
                older_pages: 0,
                ..small()
            },
        );
        for _ in 0..rng.u32(1..60) {
            before.anything();
        }
        let mut after = before.clone();
        let pages = rng.u64(1..4);
        let page = before.half_record(pages).1;
        before.go_on(rng.usize(0..900));
        let (start, same_page) = after.half_record(pages);
        assert_eq!(page, same_page);
        after.replace(start, page);
        after.commit();
        let mut reader = Reader::of(&before);
        let cut = rng.u64(start..=before.end());
        reader
            .feed(before.bytes(before.start(), cut))
            .expect("right so far");
        reader.rewind();
        let from = reader.decoder.position().0;
        reader.feed(after.bytes(from, after.end())).expect("right");
        assert_eq!(reader.records(), after.records());
    }
}
