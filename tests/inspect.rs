//! `walring inspect`: what is in a segment.
mod common;

use std::collections::BTreeMap;

use common::stored::{archive_of, json, look};
use common::{Archive, Installation, Lsn, Server, ServerOptions};
use serde_json::Value;

#[test]
fn sums_are_those_of_pg_waldump() {
    for installation in Installation::with_wal() {
        if !installation.has("pg_waldump") {
            continue;
        }
        let server = ServerOptions::default()
            .version(&installation)
            .config("wal_compression = on")
            .start();
        let archive = loaded(&server);
        for name in archive.segments() {
            let mut dump = installation.command("pg_waldump");
            let output = dump
                .arg("--stats")
                .arg(archive.file(&name))
                .output()
                .expect("run pg_waldump");
            let expected = sums_of_waldump(&String::from_utf8_lossy(&output.stdout));
            let report = json("inspect", &archive.file(&name), &["--stats"]);
            assert_eq!(sums(&report), expected, "{} {name}", installation.id());
        }
    }
}

#[test]
fn transactions_are_listed_with_their_times() {
    for installation in Installation::with_wal() {
        let server = ServerOptions::default()
            .version(&installation)
            .config("track_commit_timestamp = on")
            .config("max_prepared_transactions = 4")
            .config("wal_level = logical")
            .start();
        let first = server.flush_lsn();
        let commits = transactions(&server);
        let end = server.flush_lsn();
        let archive = archive_of(&server, first, end);
        let report = json("inspect", archive.path(), &["--commits"]);
        let listed = report["transactions"].as_array().expect("transactions");
        for (what, transaction, subtransactions, time) in commits {
            let number = |value: &Value| value["transaction"].as_u64() == Some(transaction);
            let found: Vec<_> = listed.iter().filter(|value| number(value)).collect();
            assert_eq!(found.len(), 1, "{what} {transaction}: {listed:#?}");
            assert_eq!(found[0]["what"], what);
            assert_eq!(found[0]["subtransactions"], subtransactions, "{what}");
            if let Some(time) = time {
                assert_eq!(found[0]["time"], format!("{time} UTC"), "{what}");
            }
        }
    }
}

#[test]
fn an_overview_tells_what_a_file_is() {
    let server = Server::start();
    let archive = loaded(&server);
    let name = archive.segments()[1].clone();
    let exit = look(&["inspect", archive.file(&name).to_str().unwrap()]);
    exit.assert_success();
    let identifier = server.sql("select system_identifier from pg_control_system()");
    for (what, value) in [
        ("file", name.as_str()),
        ("size", "1,048,576 bytes (1.0 MiB)"),
        ("system identifier", &identifier),
        ("timeline", "1"),
        ("pages", "128 of 8,192 bytes"),
    ] {
        let line = exit.stdout.lines().find(|line| line.starts_with(what));
        assert!(
            line.is_some_and(|line| line.ends_with(value)),
            "{what}: {}",
            exit.stdout
        );
    }
}

#[test]
fn the_end_of_a_log_is_explained() {
    let server = Server::start();
    let (archive, end) = loaded_to(&server);
    let partial = archive.file(&archive.partials()[0]);
    let report = json("inspect", &partial, &[]);
    assert_eq!(
        (&report["end"], &report["end_reason"]),
        (&end.to_string().into(), &"zeros follow".into())
    );

    let switched = archive.segments().into_iter().find(|name| {
        let report = json("inspect", &archive.file(name), &[]);
        report["end_reason"]
            .as_str()
            .unwrap()
            .contains("after a switch at")
    });
    assert!(switched.is_some(), "a segment ends with a switch");

    let mut content = std::fs::read(&partial).unwrap();
    content[8192 + 100] ^= 4;
    std::fs::write(&partial, content).unwrap();
    let exit = look(&["inspect", partial.to_str().unwrap()]);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(exit.stdout.contains("damage, "), "{}", exit.stdout);
}

#[test]
fn records_are_listed_between_positions() {
    let server = Server::start();
    let archive = loaded(&server);
    let path = archive.file(&archive.segments()[1]);
    let all = json("inspect", &path, &["--records"]);
    let all = all["record_list"].as_array().unwrap();
    let (start, end) = (all[10]["lsn"].as_str().unwrap(), all[20]["lsn"].as_str().unwrap());
    let some = json("inspect", &path, &["--records", "--start", start, "--end", end]);
    let some = some["record_list"].as_array().unwrap();
    assert!(
        some == &all[10..20],
        "{} records from {start} to {end}",
        some.len()
    );
    let exit = look(&[
        "inspect",
        "--records",
        "-s",
        start,
        "-e",
        end,
        path.to_str().unwrap(),
    ]);
    assert_eq!(exit.stdout.lines().count(), 10, "{}", exit.stdout);
    assert!(exit.stdout.starts_with(start), "{}", exit.stdout);
}

/// Kinds of load that differ in what their records refer to.
fn loaded(server: &Server) -> Archive {
    loaded_to(server).0
}

/// The same, and where it ends.
fn loaded_to(server: &Server) -> (Archive, Lsn) {
    let first = server.flush_lsn();
    server.pgbench_init();
    server.sql("checkpoint");
    server
        .start_pgbench(&["-n", "-c", "2", "-t", "200"])
        .finish()
        .assert_success();
    server.switch_wal();
    server.sql("create table words as select i, md5(i::text) as word from generate_series(1, 5000) i");
    server.sql("create index on words using gin (to_tsvector('simple', word))");
    server.sql("create index on words using hash (word)");
    server.sql("create sequence counter; select nextval('counter') from generate_series(1, 100)");
    server.sql("checkpoint");
    server.sql("update words set word = '' where i % 7 = 0");
    let end = server.flush_lsn();
    (archive_of(server, first, end), end)
}

/// Transactions of each kind: what became of it, its number, its subtransactions, and its time if it committed.
fn transactions(server: &Server) -> Vec<(&'static str, u64, u64, Option<String>)> {
    let number = |text: String| {
        text.lines()
            .next()
            .unwrap_or_default()
            .parse::<u64>()
            .expect("a number")
    };
    server.sql("create table t (x int)");
    let plain = number(server.sql("begin; select txid_current(); insert into t values (1); commit"));
    let nested = number(server.sql(
        "begin; select txid_current(); savepoint a; insert into t values (2); savepoint b; insert into t values (3); commit",
    ));
    let dropped =
        number(server.sql("begin; select txid_current(); create table u (x int); drop table u; commit"));
    let aborted = number(server.sql("begin; select txid_current(); create table v (x int); rollback"));
    let prepared =
        number(server.sql("begin; select txid_current(); create table w (x int); prepare transaction 'a b'"));
    server.sql("commit prepared 'a b'");
    let dismissed =
        number(server.sql("begin; select txid_current(); insert into t values (9); prepare transaction 'c'"));
    server.sql("rollback prepared 'c'");
    server.sql("insert into t values (4)");
    let time = |number: u64| {
        let time = format!("pg_xact_commit_timestamp('{number}'::xid) at time zone 'UTC'");
        Some(server.sql(&format!("select to_char({time}, 'YYYY-MM-DD HH24:MI:SS.US')")))
    };
    vec![
        ("COMMIT", plain, 0, time(plain)),
        ("COMMIT", nested, 2, time(nested)),
        ("COMMIT", dropped, 0, time(dropped)),
        ("ROLLBACK", aborted, 0, None),
        ("COMMIT PREPARED", prepared, 0, time(prepared)),
        ("ROLLBACK PREPARED", dismissed, 0, None),
    ]
}

type Sums = BTreeMap<String, [u64; 3]>;

fn sums(report: &Value) -> Sums {
    let stats = report["stats"].as_array().expect("stats").iter();
    let number = |value: &Value| value.as_u64().expect("a number");
    stats
        .map(|sums| {
            let name = sums["resource_manager"].as_str().expect("a name").to_owned();
            (
                name,
                ["records", "record_bytes", "image_bytes"].map(|key| number(&sums[key])),
            )
        })
        .collect()
}

/// Lines are: name, and number, record size, size of images, size of both, each with a share in brackets.
fn sums_of_waldump(text: &str) -> Sums {
    let fields = |line: &str| -> Option<(String, [u64; 3])> {
        let line = line.replace(['(', ')'], " ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words.get(index)?.parse::<u64>().ok();
        let sums = [number(1)?, number(3)?, number(5)?];
        (words.len() == 9 && sums[0] > 0 && words[0] != "Total").then(|| (words[0].to_owned(), sums))
    };
    text.lines().filter_map(fields).collect()
}
