//! How fast the log is decoded, beside the CRC of the same bytes, which is the floor.
//!
//!     cargo bench --bench decoder                 everything
//!     cargo bench --bench decoder -- small        one kind of log
//!     cargo test --bench '*'                      each once, to see that it works
//!
//! The log is fed as the receiver gets it, in portions of at most 128 KiB.

#[allow(dead_code)] // the tests use the rest of it
#[path = "../tests/model/wal.rs"]
mod wal;

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wal::{Shape, Wal};
use walring::core::lsn::{Lsn, SegmentSize, Timeline};
use walring::core::wal::decoder::{Decoder, Depth, Expected};

/// The longest payload of one message.
const PORTION: usize = 128 << 10;

/// Bytes that are decoded; more than the second level's cache holds, as the stream is.
const LENGTH: u64 = 4 << 20;

/// Bytes kept of records in parts: enough for a commit.
const KEEP: usize = 512;

fn decode(wal: &Wal, depth: Depth) -> u64 {
    let expected = Expected {
        segment_size: SegmentSize::new(wal.shape().segment).expect("a valid size"),
        timeline: Timeline(wal.shape().timeline),
        system_identifier: Some(wal.shape().system_identifier),
    };
    let mut decoder = Decoder::new(expected, depth, Lsn(wal.start()), KEEP);
    for mut portion in wal.all().chunks(PORTION) {
        while let Some(event) = decoder.next(&mut portion).expect("right") {
            black_box(&event);
        }
    }
    assert_eq!(decoder.position(), Lsn(wal.end()));
    decoder.records()
}

fn crc(wal: &Wal) -> u32 {
    wal.all().chunks(PORTION).fold(0, crc32c::crc32c_append)
}

/// The CRC of the same bytes in pieces as long as records are.
fn crc_of_records(wal: &Wal) -> u32 {
    let records = wal.records().iter();
    records.fold(0, |all, record| {
        all ^ crc32c::crc32c(wal.bytes(record.start, record.end))
    })
}

/// Whether this is a measurement (`cargo bench`); in the tests everything runs once, on little input.
fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// A log of records whose lengths are told.
fn log(mut next_length: impl FnMut(&mut fastrand::Rng) -> usize) -> Wal {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut wal = Wal::empty(
        1,
        Shape {
            segment: 16 << 20,
            ..Shape::default()
        },
    );
    let length = if is_measured() { LENGTH } else { 64 << 10 };
    while (wal.all().len() as u64) < length {
        wal.record(next_length(&mut rng));
    }
    wal
}

/// What `pgbench` writes a while after a checkpoint: short records, and some pages as a whole.
fn pgbench(rng: &mut fastrand::Rng) -> usize {
    match rng.u32(0..100) {
        0..3 => rng.usize(4000..8300),
        3..20 => rng.usize(34..60),
        20..80 => rng.usize(60..100),
        _ => rng.usize(100..250),
    }
}

fn measure(criterion: &mut Criterion) {
    let logs = [
        ("small", log(|rng| rng.usize(90..110))),
        ("medium", log(|rng| rng.usize(450..550))),
        ("full pages", log(|rng| rng.usize(8000..8240))),
        ("pgbench", log(pgbench)),
    ];
    for (name, wal) in &logs {
        let throughput = Throughput::Bytes(wal.all().len() as u64);
        let mut group = common::group(criterion, &format!("decoder, {name}"), throughput);
        group.bench_function("crc", |bencher| bencher.iter(|| crc(wal)));
        group.bench_function("crc of each record", |bencher| {
            bencher.iter(|| crc_of_records(wal))
        });
        group.bench_function("pages", |bencher| bencher.iter(|| decode(wal, Depth::Pages)));
        group.bench_function("records", |bencher| bencher.iter(|| decode(wal, Depth::Records)));
        group.finish();
    }
}

criterion_group!(benches, measure);
criterion_main!(benches);
