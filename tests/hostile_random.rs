//! Conversations that would be right but for what chance does to them: whatever a server says, nothing wrong is
//! acknowledged, no memory is given away, and the receiver ends in good order.
mod common;
mod model;

use std::io;
use std::sync::{Arc, Mutex};

use common::meeting::{Source, meet};
use common::walsender::{
    Session, authentication, copy_both, keepalive, message, notice, parameter, ready, rows, wal_message,
};
use model::Rng;
use model::wal::{Shape, Wal};

/// Bytes of WAL in a conversation.
const LENGTH: u64 = 1_200_000;

/// Conversations, and how many are held at the same time.
const SEEDS: u64 = 120;
const AT_ONCE: usize = 4;

#[test]
fn conversations_damaged_at_random_end_well() {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("HOSTILE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOSTILE_SEEDS").unwrap_or(SEEDS),
    };
    let shape = Shape {
        length: LENGTH,
        longest: 9000,
        ..Shape::default()
    };
    let wal = Arc::new(Wal::new(7, shape));
    let (seeds, counts) = (Mutex::new(seeds), Mutex::new([0u32; 2]));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = { seeds.lock().unwrap().next() } {
                    let far = hold(seed, &wal);
                    counts.lock().unwrap()[usize::from(far)] += 1;
                }
            });
        }
    });
    // Otherwise this would test the first message only, or nothing at all.
    let counts = counts.into_inner().unwrap();
    assert!(
        counts.iter().sum::<u32>() < 50 || counts.iter().all(|&count| count > 10),
        "{counts:?}"
    );
}

/// Holds one conversation; whether WAL was acknowledged in it.
fn hold(seed: u64, wal: &Arc<Wal>) -> bool {
    let mut rng = Rng::new(seed);
    let source = Source::new(wal.shape().system_identifier, wal.start(), wal.all());
    let mut parts = conversation(&source, &mut rng);
    for _ in 0..rng.between(1, 3) {
        damage(&mut parts, wal, &mut rng);
    }
    let meeting = meet(&source, &["--receive-timeout=2"], move |session| {
        say(session, &parts)
    });
    let what = format!("HOSTILE_SEED={seed}");
    meeting.assert_sound(&what);
    meeting.flushed > 0
}

/// What an honest server says: in answer to each of the client's messages, and in the stream a message at a time.
fn conversation(source: &Source, rng: &mut Rng) -> Vec<Part> {
    let identity = &source.identity;
    let greeting = [
        authentication(0, b""),
        parameter("server_version", "15.18"),
        parameter("integer_datetimes", "on"),
        message(b'K', &[7; 8]),
        ready(),
    ];
    let who = [&identity.system_identifier, "1", &identity.flushed].map(|text: &str| text);
    let answers = [
        greeting.concat(),
        rows(&[&["0700"]]),
        rows(&[&who]),
        rows(&[&["1MB"]]),
        copy_both(),
    ];
    let mut parts: Vec<Part> = answers.into_iter().map(Part::Answer).collect();
    let mut at = 0;
    while at < source.bytes.len() {
        let length = (rng.between(1, 128 << 10) as usize).min(source.bytes.len() - at);
        let (start, end) = (source.start + at as u64, source.start + source.bytes.len() as u64);
        parts.push(Part::Said(wal_message(
            start,
            end,
            &source.bytes[at..at + length],
        )));
        at += length;
        match rng.between(0, 5) {
            0 => parts.push(Part::Said(keepalive(start + length as u64, false))),
            1 => parts.push(Part::Said(notice("NOTICE", "nothing"))),
            2 => parts.push(Part::Said(parameter("application_name", "x"))),
            _ => {}
        }
    }
    parts
}

/// A piece of the conversation.
#[derive(Clone)]
enum Part {
    /// Said when the client has asked.
    Answer(Vec<u8>),
    /// Said unasked.
    Said(Vec<u8>),
}

impl Part {
    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        let (Part::Answer(bytes) | Part::Said(bytes)) = self;
        bytes
    }
}

/// Does something to one part; the answers, which are few, are chosen as often as the stream.
fn damage(parts: &mut Vec<Part>, wal: &Wal, rng: &mut Rng) {
    let answers = 5;
    let part = match rng.chance(40) {
        true => rng.between(0, answers - 1),
        false => rng.between(answers, parts.len() as u64 - 1),
    } as usize;
    match rng.between(0, 6) {
        0 => drop(parts.remove(part)),
        1 => parts.insert(part, parts[part].clone()),
        2 => {
            let other = rng.between(0, parts.len() as u64 - 1) as usize;
            parts.swap(part, other);
        }
        _ => damage_bytes(parts[part].bytes_mut(), wal, rng),
    }
}

/// Damage to what is not WAL, or to a record: what lies between records is not protected by anything.
fn damage_bytes(bytes: &mut Vec<u8>, wal: &Wal, rng: &mut Rng) {
    let Some(last) = (bytes.len() as u64).checked_sub(1) else {
        return;
    };
    let is_wal = bytes[0] == b'd' && bytes.get(5) == Some(&b'w');
    let at = match is_wal && rng.chance(60) {
        true => rng.between(0, last.min(29)),
        false => rng.between(0, last),
    } as usize;
    match rng.between(0, 4) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..(at + 7).min(bytes.len()))),
        2 => {
            let noise: Vec<u8> = (0..rng.between(1, 40)).map(|_| rng.next() as u8).collect();
            bytes.splice(at..at, noise);
        }
        3 => bytes[at.min(29)] = rng.next() as u8,
        _ if is_wal && at >= 30 => flip_in_record(bytes, wal, rng),
        _ => bytes[at] ^= 1 << rng.between(0, 7),
    }
}

/// Flips a bit of a record's content that is in this message.
fn flip_in_record(bytes: &mut [u8], wal: &Wal, rng: &mut Rng) {
    let start = u64::from_be_bytes(bytes[6..14].try_into().expect("eight bytes"));
    let end = start + bytes.len() as u64 - 30;
    let inside = |record: &&model::wal::Written| record.start >= start && record.start + 24 <= end;
    let records: Vec<_> = wal.records().iter().filter(inside).collect();
    if records.is_empty() {
        return;
    }
    let record = records[rng.between(0, records.len() as u64 - 1) as usize];
    // A page's header may follow behind the first byte.
    let at = (record.start - start) as usize + 30;
    bytes[at] ^= 1 << rng.between(0, 7);
}

/// Says it all, and hangs up once the client has had a chance to answer.
fn say(session: &mut Session, parts: &[Part]) -> io::Result<()> {
    session.startup()?;
    let mut streams = false;
    for (number, part) in parts.iter().enumerate() {
        match part {
            Part::Answer(bytes) => {
                if number > 0 && !streams {
                    session.hear()?;
                }
                session.send(bytes)?;
            }
            Part::Said(bytes) => {
                if !std::mem::replace(&mut streams, true) {
                    session.listen();
                }
                session.send(bytes)?;
            }
        }
    }
    session.rest()
}
