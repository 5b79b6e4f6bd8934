//! What real servers write is read as their own tool reads it, and what the tests make up is WAL to that tool, too.

mod common;
mod model;

use std::path::Path;

use common::{Installation, Server, ServerOptions, at_once};
use model::reading::{Reader, Seen};
use model::wal::{Shape, Wal, Written};
use walring::core::lsn::{Lsn, SegmentNumber, SegmentSize, Timeline};
use walring::core::wal::decoder::{Depth, Expected};
use walring::core::wal::fault::{Fault, Flaw};

/// A record as `pg_waldump` tells it: position, length, the one before, transaction, resource manager.
type Line = (u64, u32, u64, u32, String);

/// The names of the built-in resource managers, in the order of their numbers.
const MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// All that `pg_waldump` finds in a directory from a position on, up to where the log ends.
fn dump(installation: &Installation, directory: &Path, start: u64) -> Vec<Line> {
    let mut command = installation.command("pg_waldump");
    command
        .arg("-p")
        .arg(directory)
        .arg("-s")
        .arg(Lsn(start).to_string())
        .args(segments_from(directory, start));
    let output = command.output().expect("run pg_waldump");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !text.is_empty(),
        "pg_waldump shows nothing from {}: {said}",
        Lsn(start)
    );
    text.lines()
        .filter(|line| line.starts_with("rmgr:"))
        .map(parse)
        .collect()
}

/// The name of the segment that holds a position, and that of the last one: pg_waldump learns the segments' size from
/// them. Left to itself it takes the first file it meets, which may be one that the server has prepared and not written.
fn segments_from(directory: &Path, position: u64) -> [String; 2] {
    let entries = std::fs::read_dir(directory).expect("list pg_wal");
    let segments = entries.filter_map(|entry| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name");
        (name.len() == 24).then(|| (name, entry.metadata().expect("its size").len()))
    });
    let (last, size) = segments.max().expect("a segment");
    let (number, in_id) = (position / size, (1 << 32) / size);
    let first = format!("00000001{:08X}{:08X}", number / in_id, number % in_id);
    [first, last]
}

/// rmgr: Heap  len (rec/tot):  54/  154, tx:  734, lsn: 0/01530A58, prev 0/01530A20, desc: ...
fn parse(line: &str) -> Line {
    // What the record says can be megabytes.
    let heading = line.split("desc:").next().unwrap_or(line);
    let words: Vec<&str> = heading
        .split([' ', ',', '/', ':'])
        .filter(|word| !word.is_empty())
        .collect();
    let after = |name: &str| words.iter().position(|word| *word == name).expect(name) + 1;
    let lsn = |at: usize| {
        let half = |text: &str| u64::from_str_radix(text, 16).expect("an LSN");
        half(words[at]) << 32 | half(words[at + 1])
    };
    // The length without full-page images, then the one with them.
    let length = words[after("tot)") + 1];
    (
        lsn(after("lsn")),
        length.parse().expect("a length"),
        lsn(after("prev")),
        words[after("tx")].parse().expect("a number"),
        words[1].to_owned(),
    )
}

fn line(record: &Written) -> Line {
    let manager = MANAGERS[usize::from(record.manager)].to_owned();
    (
        record.start,
        record.length,
        record.previous,
        record.transaction,
        manager,
    )
}

/// The log in a server's directory, from its first segment on.
struct Log {
    start: u64,
    bytes: Vec<u8>,
}

fn log_of(server: &Server) -> Log {
    let size = SegmentSize::new(server.segment_bytes()).expect("a valid size");
    let directory = server.data().join("pg_wal");
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(&directory).expect("list pg_wal") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_str().expect("a name");
        if let Some((timeline, segment)) = SegmentNumber::parse_file_name(name, size) {
            assert_eq!(timeline, Timeline(1));
            segments.push((segment, server.wal_file(name)));
        }
    }
    segments.sort();
    let start = size.start_of(segments[0].0).0;
    let follows = |pair: &[(_, Vec<u8>)]| SegmentNumber::next(pair[0].0) == pair[1].0;
    assert!(segments.windows(2).all(follows), "no segment is missing");
    let bytes: Vec<Vec<u8>> = segments.into_iter().map(|(_, bytes)| bytes).collect();
    let bytes = bytes.concat();
    Log { start, bytes }
}

/// Reads all of it; it ends with pages that were not written yet, or in an earlier use of the file.
fn read(server: &Server) -> (Reader, Vec<Line>) {
    let log = log_of(server);
    let expected = Expected {
        segment_size: SegmentSize::new(server.segment_bytes()).expect("a valid size"),
        timeline: Timeline(1),
        system_identifier: None,
    };
    let mut reader = Reader::expecting(expected, Depth::Records, Lsn(log.start), 8 << 20);
    let end = log
        .bytes
        .chunks(128 << 10)
        .try_for_each(|portion| reader.feed(portion));
    let fault = end.expect_err("the newest segment is not full");
    assert!(is_end(&fault), "{fault}");
    let lines = reader.records().iter().map(line).collect();
    (reader, lines)
}

fn is_end(fault: &Fault) -> bool {
    matches!(
        fault.flaw,
        Flaw::NoRecord | Flaw::Magic { found: 0, .. } | Flaw::Address { .. }
    )
}

#[track_caller]
fn assert_same(found: &[Line], told: &[Line]) {
    let different = found.iter().zip(told).find(|(found, told)| found != told);
    assert_eq!(different, None, "found and told");
    assert_eq!(found.len(), told.len());
}

/// Whatever a server does in a while: tables, indexes, prepared transactions, sequences, full pages, switches.
fn work(server: &Server) {
    server.pgbench_init();
    server
        .start_pgbench(&["-t", "100", "-c", "4"])
        .finish()
        .assert_success();
    server.sql("create table t (k serial primary key, v text); insert into t (v) select repeat('x', 3000) from generate_series(1, 200)");
    server.switch_wal();
    for number in 0..20 {
        server.sql(&format!(
            "begin; insert into t (v) values ('p'); prepare transaction 'p{number}'"
        ));
        let end = if number % 2 == 0 { "commit" } else { "rollback" };
        server.sql(&format!("{end} prepared 'p{number}'"));
        server.switch_wal();
    }
    server.sql("select pg_logical_emit_message(true, 'long', repeat('long', 700000))");
    server.sql("begin; drop table t; rollback; update pgbench_accounts set abalance = 1");
    server.sql("vacuum");
}

#[test]
fn a_servers_log_is_read_as_its_own_tool_reads_it() {
    let sizes = Installation::with_wal()
        .into_iter()
        .map(|installation| (installation, 1));
    let sizes = sizes.chain([(Installation::standard(), 16)]);
    at_once(sizes, |(installation, segment_mb)| {
        let options = ServerOptions::default()
            .version(&installation)
            .segment_mb(segment_mb);
        let server = options.config("max_prepared_transactions = 5").start();
        work(&server);
        let end = server.flush_lsn();
        server.stop_fast();
        let (reader, found) = read(&server);
        let verified = reader.decoder.verified();
        assert!(verified >= Lsn(end.0), "all that is flushed is read: {verified}");
        if installation.has("pg_waldump") {
            let told = dump(&installation, &server.data().join("pg_wal"), found[0].0);
            assert_same(&found, &told);
        }
    });
}

/// The server dies again and again while it writes long records; what it left unfinished it replaces.
#[test]
fn a_record_in_the_middle_of_which_the_server_died_is_passed_over() {
    at_once(Installation::with_wal(), |installation| {
        let server = ServerOptions::default().version(&installation).start();
        let mut abandoned = 0;
        for _ in 0..30 {
            let before = server.flush_lsn();
            let load = "select pg_logical_emit_message(false, 'long', repeat('long', 500000)) from generate_series(1, 100)";
            let load = server.start_sql(load);
            common::wait::until("it writes", || {
                let at = server.lsn("pg_current_wal_lsn()");
                (at.0 > before.0 + (1 << 20)).then_some(())
            });
            server.stop_immediate();
            drop(load);
            server.start_again();
            server.write_wal(1);
            let (reader, found) = read(&server);
            abandoned = reader
                .seen
                .iter()
                .filter(|seen| matches!(seen, Seen::Abandoned(Some(_))))
                .count();
            if installation.has("pg_waldump") {
                let told = dump(&installation, &server.data().join("pg_wal"), found[0].0);
                assert_same(
                    &found[..told.len().min(found.len())],
                    &told[..told.len().min(found.len())],
                );
            }
            if abandoned > 0 {
                break;
            }
        }
        assert!(abandoned > 0, "{}: never died within a record", installation.id());
    });
}

#[test]
fn made_up_logs_are_what_pg_waldump_reads() {
    for installation in Installation::with_wal() {
        let version = match installation.id() {
            id if id.contains("18") => 18,
            _ => 15,
        };
        if !installation.has("pg_waldump") {
            continue;
        }
        for seed in 0..3 {
            let shape = Shape {
                version,
                length: 3 << 20,
                deaths: 10,
                switches: 10,
                ..Shape::default()
            };
            let mut wal = Wal::new(seed, shape);
            let found: Vec<Line> = wal.records().iter().map(line).collect();
            let left = wal.end().next_multiple_of(1 << 20) - wal.end();
            wal.zeros(left as usize);
            let directory = tempfile::tempdir().expect("a directory");
            for (number, segment) in (3..).zip(wal.all().chunks(1 << 20)) {
                let name = format!("0000000100000000{number:08X}");
                std::fs::write(directory.path().join(name), segment).expect("write a segment");
            }
            assert_same(&found, &dump(&installation, directory.path(), found[0].0));
        }
    }
}
