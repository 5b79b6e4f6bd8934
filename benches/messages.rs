//! What a message of the stream costs beside the reading of its bytes: framing one, and encoding a status.
//!
//!     cargo bench --bench messages                everything
//!     cargo bench --bench messages -- framing     one of them
//!     cargo test --bench '*'                      each once, to see that it works
//!
//! The kernel's part is left out: what it would copy to the slot lies there already, but for the messages
//! that are read in one piece, which are copied as a read would. So the throughput of the bulk messages is no
//! transfer rate; it tells what their heads cost.

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walring::core::framing::{Frame, Framer};
use walring::core::lsn::Lsn;
use walring::core::message::{Status, WAL_HEAD};
use walring::core::spread::{HEADS_LENGTH, MOST_HEADS, Spread};

/// WAL bytes of a slot, and its bytes in all.
const LIMIT: usize = 1 << 20;
const LENGTH: usize = LIMIT + 4096;

/// Bytes of a commit's message, and of one in a catch-up.
const COMMIT: usize = 300;
const BULK: usize = 128 << 10;

/// Commits that one read brings when many clients commit.
const GROUP: usize = 8;

/// The head of a WAL message with so much payload.
fn head(payload: usize) -> [u8; WAL_HEAD] {
    let mut head = [0; WAL_HEAD];
    head[0] = b'd';
    head[1..5].copy_from_slice(&(4 + 25 + payload as u32).to_be_bytes());
    head[5] = b'w';
    head
}

/// Takes every frame that has arrived; the bytes of WAL in them.
fn take_frames(framer: &mut Framer, slot: &mut [u8]) -> usize {
    let mut wal = 0;
    while let Some(frame) = framer.next(slot, LIMIT).expect("the stream is right") {
        if let Frame::Wal(count) = black_box(frame) {
            wal += count;
        }
    }
    wal
}

/// Commits that arrive together, moved down by their heads; as many reads as a slot has room for.
fn frame_commits(slot: &mut [u8], arriving: &[u8]) -> usize {
    let mut framer = Framer::new(0);
    let mut wal = 0;
    while framer.place() + arriving.len() < LIMIT {
        let range = framer.ask(LIMIT, LENGTH, false);
        slot[range.start..range.start + arriving.len()].copy_from_slice(arriving);
        framer.arrived(arriving.len());
        wal += take_frames(&mut framer, slot);
    }
    wal
}

/// A slot full of bulk messages: each read brings the rest of one payload and the next head.
fn frame_bulk(slot: &mut [u8], head: [u8; WAL_HEAD]) -> usize {
    let mut framer = inside_bulk(slot, head);
    let mut wal = 0;
    while framer.place() < LIMIT {
        let range = framer.ask(LIMIT, LENGTH, true);
        if range.len() > WAL_HEAD {
            slot[range.end - WAL_HEAD..range.end].copy_from_slice(&head);
        }
        framer.arrived(range.len());
        wal += take_frames(&mut framer, slot);
    }
    wal
}

/// A slot full of bulk messages in one read, their heads apart.
fn frame_spread(slot: &mut [u8], head: [u8; WAL_HEAD], heads: &[u8; HEADS_LENGTH]) -> usize {
    let mut framer = inside_bulk(slot, head);
    let mut wal = 0;
    while framer.place() < LIMIT {
        let spread = framer.spread(LIMIT, LENGTH).expect("inside a payload");
        let pieces = spread.pieces().count();
        let count = spread.wal_length() + Spread::head_before(pieces - 1).end;
        framer.arrived_spread(spread, count, heads);
        wal += take_frames(&mut framer, slot);
    }
    wal
}

/// A framer that has taken the head of a bulk message.
fn inside_bulk(slot: &mut [u8], head: [u8; WAL_HEAD]) -> Framer {
    let mut framer = Framer::new(0);
    slot[..WAL_HEAD].copy_from_slice(&head);
    framer.arrived(WAL_HEAD);
    take_frames(&mut framer, slot);
    framer
}

fn framing(criterion: &mut Criterion) {
    let mut slot = vec![0; LENGTH];
    for (name, together) in [("a commit", 1), ("8 commits", GROUP)] {
        let arriving = [&head(COMMIT)[..], &[1; COMMIT]].concat().repeat(together);
        let wal = frame_commits(&mut slot, &arriving);
        assert!(wal > LIMIT - 2 * arriving.len(), "{wal}");
        let mut group = common::group(criterion, "framing, commits", Throughput::Bytes(wal as u64));
        group.bench_function(format!("{name} a read"), |bencher| {
            bencher.iter(|| frame_commits(&mut slot, black_box(&arriving)));
        });
        group.finish();
    }
    let head = head(BULK);
    let heads = head.repeat(MOST_HEADS).try_into().expect("as many heads as fit");
    let mut group = common::group(criterion, "framing, bulk", Throughput::Bytes(LIMIT as u64));
    assert_eq!(frame_bulk(&mut slot, head), LIMIT);
    group.bench_function("a message a read", |bencher| {
        bencher.iter(|| frame_bulk(&mut slot, black_box(head)));
    });
    assert_eq!(frame_spread(&mut slot, head, &heads), LIMIT);
    group.bench_function("8 messages a read", |bencher| {
        bencher.iter(|| frame_spread(&mut slot, head, black_box(&heads)));
    });
    group.finish();
}

fn status(criterion: &mut Criterion) {
    let status = Status {
        written: Lsn(0x0123_4567_89AB),
        flushed: Lsn(0x0123_4567_8000),
        reply_requested: false,
    };
    let mut group = common::group(criterion, "status", Throughput::Elements(1));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| black_box(status).encode(black_box(800_000_000_000_000)));
    });
    group.finish();
}

criterion_group!(benches, framing, status);
criterion_main!(benches);
