//! `walring verify`: what is sound passes, and what is damaged, missing or out of place is named.
mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::postgres::server_user;
use common::receiver::streaming;
use common::stored::{archive_of, json, look, verify};
use common::{Archive, Installation, Lsn, Process, Server, ServerOptions, at_once};

const SEGMENT: u64 = 1 << 20;

#[test]
fn what_servers_of_every_version_write_is_sound() {
    for installation in Installation::with_wal() {
        let server = ServerOptions::default().version(&installation).start();
        let archive = loaded(&server);
        assert_sound(&archive);
        let report = json("verify", archive.path(), &[]);
        assert_eq!(
            report["system_identifier"],
            system_identifier(&server),
            "{report:#}"
        );
        assert_eq!(report["version"].as_u64().unwrap(), major(&server), "{report:#}");
    }
}

#[test]
fn segments_of_16_and_64_mb_are_sound() {
    at_once([16, 64], |megabytes| {
        let server = ServerOptions::default().segment_mb(megabytes).start();
        let first = server.flush_lsn();
        server.pgbench_init();
        server.switch_wal();
        let end = server.write_wal(100);
        let archive = archive_of(&server, first, end);
        assert_sound(&archive);
        let report = json("verify", archive.path(), &[]);
        assert_eq!(report["segment_size"], u64::from(megabytes) << 20);
        assert_eq!(report["timelines"][0]["end"], end.to_string());
    });
}

#[test]
fn every_record_is_counted_as_pg_waldump_does() {
    for installation in Installation::with_wal()
        .into_iter()
        .filter(|version| version.has("pg_waldump"))
    {
        let server = ServerOptions::default().version(&installation).start();
        let archive = loaded(&server);
        let partial = archive.partials().remove(0);
        let last = partial.strip_suffix(".partial").unwrap().to_owned();
        // pg_waldump knows no partials.
        archive.write(&last, &archive.read(&partial));
        let dump = waldump(&server, &archive, &[], &archive.segments()[0], &last);
        let expected = String::from_utf8_lossy(&dump.stdout).lines().count() as u64;
        std::fs::remove_file(archive.file(&last)).unwrap();
        let report = json("verify", archive.path(), &[]);
        assert_eq!(report["timelines"][0]["records"], expected, "{report:#}");
    }
}

#[test]
fn a_flipped_bit_is_named_with_its_place() {
    let server = Server::start();
    let archive = loaded(&server);
    let name = archive.segments()[3].clone();
    flip(&archive, &name, 8192 * 5 + 8);
    let exit = verify(&archive, &[]);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let lines: Vec<&str> = exit
        .stdout
        .lines()
        .filter(|line| line.starts_with(&name))
        .collect();
    assert_eq!(lines.len(), 1, "{exit:#?}");
    assert!(
        lines[0].starts_with(&format!("{name}: offset 40960: page at ")),
        "{}",
        lines[0]
    );
    assert!(
        lines[0].contains("expected") && lines[0].contains("the next good record"),
        "{}",
        lines[0]
    );
    assert!(
        exit.stdout
            .lines()
            .last()
            .unwrap()
            .starts_with("NOT SOUND: 1 damaged; "),
        "{exit:#?}"
    );
    let quiet = verify(&archive, &["-q"]);
    assert_eq!(quiet.stdout.trim_end(), lines[0]);
    // Two more, far away: each is found by itself.
    flip(&archive, &name, 8192 * 60 + 9);
    flip(&archive, &archive.segments()[4].clone(), 8192 * 70);
    assert_eq!(kinds(&archive), ["page", "page", "page"]);
}

#[test]
fn missing_segments_are_named() {
    let server = Server::start();
    let archive = loaded(&server);
    let names = archive.segments();
    for name in [&names[2], &names[4], &names[5]] {
        std::fs::remove_file(archive.file(name)).unwrap();
    }
    let findings = findings(&archive);
    assert_eq!(kinds(&archive), ["missing", "missing"]);
    assert_eq!(findings[0]["file"], names[2]);
    assert_eq!(findings[1]["file"], names[4]);
    assert!(
        findings[1]["message"].as_str().unwrap().contains(&names[5]),
        "{findings:#?}"
    );
}

#[test]
fn a_file_under_a_wrong_name_is_told_its_right_one() {
    let server = Server::start();
    let archive = loaded(&server);
    let names = archive.segments();
    let (a, b) = (archive.read(&names[2]), archive.read(&names[5]));
    archive.write(&names[2], &b);
    archive.write(&names[5], &a);
    let findings = findings(&archive);
    assert_eq!(kinds(&archive), ["name", "name"], "{findings:#?}");
    assert_eq!(
        (&findings[0]["file"], &findings[0]["found"]),
        (&names[2].clone().into(), &names[5].clone().into())
    );
}

#[test]
fn a_foreign_segment_is_named() {
    let (server, other) = (
        Server::start(),
        ServerOptions::default().another_cluster().start(),
    );
    let (archive, foreign) = (loaded(&server), loaded(&other));
    let shared = archive
        .segments()
        .into_iter()
        .skip(1)
        .find(|name| foreign.segments().contains(name));
    let shared = shared.expect("both have such a segment");
    archive.write(&shared, &foreign.read(&shared));
    let findings = findings(&archive);
    assert_eq!(kinds(&archive), ["foreign"], "{findings:#?}");
    assert_eq!(findings[0]["found"], system_identifier(&other));
}

#[test]
fn a_segment_cut_short_is_named() {
    let server = Server::start();
    let archive = loaded(&server);
    let name = archive.segments()[2].clone();
    archive.write(&name, &archive.read(&name)[..300_000]);
    assert_eq!(kinds(&archive), ["size"], "{:#?}", findings(&archive));
    archive.write(&name, b"");
    assert_eq!(kinds(&archive), ["size"], "{:#?}", findings(&archive));
}

#[test]
fn a_partial_may_end_anywhere() {
    let server = Server::start();
    let archive = loaded(&server);
    let partial = archive.partials().remove(0);
    let whole = archive.read(&partial);
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap();
    assert!(end > 3 * 8192, "{end}");
    for cut in [0, 10, 40, 8192, 8192 + 10, 16384, end - 3000, end - 100, end - 31] {
        let mut content = whole.clone();
        content[cut..].fill(0);
        archive.write(&partial, &content);
        assert_sound(&archive);
        archive.write(&partial, &whole[..cut]);
        assert_sound(&archive);
    }
    // But what lies before its end must be right.
    let mut content = whole;
    content[end / 2] ^= 1;
    archive.write(&partial, &content);
    assert_eq!(kinds(&archive).len(), 1, "{:#?}", findings(&archive));
}

#[test]
fn a_partial_with_others_behind_it_is_named() {
    let server = Server::start();
    let archive = loaded(&server);
    let name = archive.segments()[2].clone();
    let mut content = archive.read(&name);
    content[500_000..].fill(0);
    std::fs::remove_file(archive.file(&name)).unwrap();
    archive.write(&format!("{name}.partial"), &content);
    assert_eq!(kinds(&archive), ["partial"], "{:#?}", findings(&archive));
}

#[test]
fn timelines_are_joined_where_they_fork() {
    let server = Server::start();
    let (archive, fork) = promoted(&server);
    assert_sound(&archive);
    let report = json("verify", archive.path(), &[]);
    assert_eq!(report["timelines"].as_array().unwrap().len(), 2, "{report:#}");

    let first_of_new = fork.segment_name(2, SEGMENT);
    let history = archive.read("00000002.history");
    std::fs::remove_file(archive.file("00000002.history")).unwrap();
    let findings_then = findings(&archive);
    assert_eq!(
        findings_then.last().unwrap()["kind"],
        "history",
        "{findings_then:#?}"
    );
    archive.write("00000002.history", b"nonsense");
    assert_eq!(kinds(&archive), ["history"]);
    archive.write("00000002.history", &history);

    let copy = archive.read(&first_of_new);
    std::fs::remove_file(archive.file(&first_of_new)).unwrap();
    assert_eq!(kinds(&archive), ["missing"], "{:#?}", findings(&archive));
    assert_eq!(findings(&archive)[0]["file"], first_of_new);
    archive.write(&first_of_new, &copy);

    // The parent's last whole segment.
    let before = Lsn(fork.0 - SEGMENT).segment_name(1, SEGMENT);
    let content = archive.read(&before);
    std::fs::remove_file(archive.file(&before)).unwrap();
    assert_eq!(kinds(&archive), ["missing"], "{:#?}", findings(&archive));
    archive.write(&before, &content);
    assert_sound(&archive);
}

#[test]
fn a_fork_that_is_no_copy_of_its_parent_is_named() {
    let server = Server::start();
    let (archive, fork) = promoted(&server);
    let old = archive
        .partials()
        .into_iter()
        .find(|name| name.starts_with("00000001"));
    let old = old.expect("the old timeline ends with a partial");
    // Another history of the same bytes: records of the same lengths that are right in themselves.
    let mut content = archive.read(&old);
    let replaced = replace_first_commit_time(&mut content);
    archive.write(&old, &content);
    let findings = findings(&archive);
    assert_eq!(kinds(&archive), ["copy"], "{findings:#?}");
    assert!(
        findings[0]["offset"].as_u64().unwrap().abs_diff(replaced as u64) < 64,
        "{findings:#?}"
    );
    assert!(replaced < fork.offset(SEGMENT));
}

#[test]
fn the_directory_of_a_running_receiver_is_sound_at_any_moment() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming(&server, &archive);
    server.pgbench_init();
    let mut load = server.start_pgbench(&["-n", "-c", "4", "-t", "1500"]);
    let mut rounds = 0;
    while load.is_running() || rounds < 3 {
        assert_sound(&archive);
        rounds += 1;
    }
    load.finish().assert_success();
    receiver.stop();
    assert_sound(&archive);
}

#[test]
fn compressed_segments_are_counted_and_not_looked_at() {
    let server = Server::start();
    let archive = loaded(&server);
    let name = archive.segments()[1].clone();
    std::fs::rename(archive.file(&name), archive.file(&format!("{name}.gz"))).unwrap();
    archive.write("notes.txt", b"nothing to do with it");
    let exit = verify(&archive, &[]);
    exit.assert_success();
    let last = exit.stdout.lines().last().unwrap();
    assert!(last.starts_with("sound; "), "{last}");
    assert!(
        last.contains("1 compressed, not looked at; 1 with other names, ignored"),
        "{last}"
    );

    let only = Archive::new();
    only.write(&format!("{name}.gz"), b"");
    assert_eq!(verify(&only, &[]).code, Some(2));
}

#[test]
fn what_cannot_be_looked_at_is_neither_sound_nor_damaged() {
    let empty = Archive::new();
    let exit = verify(&empty, &[]);
    assert_eq!(exit.code, Some(2), "{exit:#?}");
    assert!(exit.has_line_with(&["no WAL segment in"]), "{exit:#?}");
    for arguments in [
        &["verify"][..],
        &["verify", "/nonexistent/directory"],
        &["verify", "--unknown", "."],
        &["verify", "-j", "0", "."],
        &["verify", "--start", "x", "."],
        &["verify", "--segment-size=3", "."],
        &["verify", "Cargo.toml"],
        &["inspect"],
        &["inspect", "/nonexistent/directory"],
    ] {
        assert_eq!(look(arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let server = Server::start();
    let archive = loaded(&server);
    let unreadable = archive.segments()[1].clone();
    let mode = |name: &str, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(archive.file(name), mode).expect("change permissions");
    };
    // Root may read everything: as root the program runs as the servers' user.
    std::fs::copy(env!("CARGO_BIN_EXE_walring"), archive.file("program")).expect("copy the program");
    mode("", 0o755);
    mode("program", 0o755);
    archive
        .names()
        .iter()
        .filter(|name| *name != "program")
        .for_each(|name| mode(name, 0o644));
    mode(&unreadable, 0o000);
    let mut command = Command::new(archive.file("program"));
    command.arg("verify").arg(archive.path());
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    let exit = Process::spawn(command).finish();
    assert_eq!(exit.code, Some(2), "{exit:#?}");
    let line = format!("{unreadable}: cannot be read: Permission denied");
    assert!(exit.stdout.lines().any(|said| said == line), "{}", exit.stdout);
}

#[test]
fn a_segment_of_a_copy_that_went_another_way_does_not_join() {
    let server = Server::start();
    let copy = server.base_backup(&[]);
    copy.start_again();
    let first = server.flush_lsn();
    // Both go on at the same position, at the beginning of a segment, and come there by different ways.
    server.write_wal(10);
    copy.write_wal(300);
    let starts = [&server, &copy].map(|server| server.switch_wal());
    let start = starts[0].max(starts[1]);
    while server.flush_lsn() < start {
        server.switch_wal();
    }
    while copy.flush_lsn() < start {
        copy.switch_wal();
    }
    let end = server.write_wal(1500);
    copy.write_wal(1500);
    let archive = archive_of(&server, first, end);
    assert_sound(&archive);
    let name = start.segment_name(1, SEGMENT);
    archive.write(&name, &copy.wal_file(&name));
    let findings = findings(&archive);
    let join = findings.iter().find(|finding| finding["kind"] == "join");
    let join = join.unwrap_or_else(|| panic!("{findings:#?}"));
    assert_eq!((&join["file"], &join["offset"]), (&name.into(), &40.into()));
}

#[test]
fn a_range_leaves_out_the_rest() {
    let server = Server::start();
    let archive = loaded(&server);
    let names = archive.segments();
    flip(&archive, &names[2].clone(), 100_000);
    let number = |name: &str| u64::from_str_radix(&name[16..], 16).unwrap();
    let from = Lsn((number(&names[2]) + 1) * SEGMENT).to_string();
    verify(&archive, &["--start", &from]).assert_success();
    let to = Lsn(number(&names[2]) * SEGMENT + 50_000).to_string();
    verify(&archive, &["--end", &to]).assert_success();
    assert_eq!(verify(&archive, &[]).code, Some(1));
}

#[test]
fn everything_pg_waldump_stumbles_over_is_found() {
    let server = Server::start();
    let archive = loaded(&server);
    for partial in archive.partials() {
        std::fs::remove_file(archive.file(&partial)).unwrap();
    }
    let names = archive.segments();
    let (first, last) = (names[0].clone(), names[names.len() - 2].clone());
    let whole = archive.read(&names[3]);
    let other = archive.read(&names[4]);
    let mut random = fastrand::Rng::with_seed(11);
    let mut stumbled = 0;
    for round in 0..60 {
        let mut content = whole.clone();
        let at = random.usize(..content.len());
        let page = at / 8192 * 8192;
        match round % 6 {
            0 | 1 => content[at] ^= 1 << random.u32(..8),
            2 => content[page..page + 8192].fill(0),
            3 => content[page..page + 8192].copy_from_slice(&other[page..page + 8192]),
            4 => content.truncate(at),
            _ => content.clone_from(&other),
        }
        archive.write(&names[3], &content);
        let dump = waldump(&server, &archive, &["-q"], &first, &last);
        if !dump.status.success() {
            stumbled += 1;
            let exit = verify(&archive, &["-q"]);
            assert_eq!(exit.code, Some(1), "round {round} at {at}: {dump:?}");
        }
    }
    assert!(stumbled > 20, "pg_waldump stumbled {stumbled} times only");
    archive.write(&names[3], &whole);
    assert_sound(&archive);
}

/// An archive of several kinds of load: small records, long ones, a switch, a partial at the end.
fn loaded(server: &Server) -> Archive {
    let first = server.flush_lsn();
    server.pgbench_init();
    server
        .start_pgbench(&["-n", "-c", "2", "-t", "200"])
        .finish()
        .assert_success();
    server.switch_wal();
    server.sql("select pg_logical_emit_message(true, 'long', repeat('x', 2500000))");
    server.sql("create table bulk as select i, md5(i::text) from generate_series(1, 4000) i");
    let end = server.flush_lsn();
    archive_of(server, first, end)
}

/// An archive across a promotion, and where it was.
fn promoted(server: &Server) -> (Archive, Lsn) {
    let first = server.flush_lsn();
    server.write_wal(2500);
    server.sql("create table before_promotion as select 1");
    server.restart_as_standby();
    server.promote();
    let end = server.write_wal(2500);
    let history = server.wal_file("00000002.history");
    let text = String::from_utf8(history).expect("a history is text");
    let fork: Lsn = text
        .split_whitespace()
        .nth(1)
        .expect("a switch point")
        .parse()
        .expect("an LSN");
    let archive = archive_of(server, first, end);
    // A receiver leaves the old timeline's last segment as a partial, and zero behind the switch point; a server,
    // which archives it under the same name, whatever the file held before. Either will do.
    let old = fork.segment_name(1, SEGMENT);
    let partial = format!("{old}.partial");
    if archive.names().contains(&old) {
        std::fs::rename(archive.file(&old), archive.file(&partial)).unwrap();
    }
    assert_sound(&archive);
    let mut content = archive.read(&partial);
    content[fork.offset(SEGMENT)..].fill(0);
    archive.write(&partial, &content);
    (archive, fork)
}

#[track_caller]
fn assert_sound(archive: &Archive) {
    let exit = verify(archive, &[]);
    assert_eq!(exit.code, Some(0), "{}{:#?}", exit.stdout, exit.stderr);
}

fn findings(archive: &Archive) -> Vec<serde_json::Value> {
    json("verify", archive.path(), &[])["findings"]
        .as_array()
        .expect("findings")
        .clone()
}

fn kinds(archive: &Archive) -> Vec<String> {
    let kind = |finding: &serde_json::Value| finding["kind"].as_str().expect("a kind").to_owned();
    findings(archive).iter().map(kind).collect()
}

fn flip(archive: &Archive, name: &str, at: usize) {
    let mut content = archive.read(name);
    content[at] ^= 1;
    archive.write(name, &content);
}

fn waldump(
    server: &Server,
    archive: &Archive,
    options: &[&str],
    first: &str,
    last: &str,
) -> std::process::Output {
    let mut dump: Command = server.installation().command("pg_waldump");
    dump.args(options)
        .arg("-p")
        .arg(archive.path())
        .args([first, last]);
    dump.output().expect("run pg_waldump")
}

fn system_identifier(server: &Server) -> String {
    server.sql("select system_identifier from pg_control_system()")
}

fn major(server: &Server) -> u64 {
    server
        .sql("show server_version_num")
        .parse::<u64>()
        .expect("a number")
        / 10_000
}

/// Changes the time of the first commit in a segment and makes its record right again; gives where.
fn replace_first_commit_time(content: &mut [u8]) -> usize {
    let number =
        |content: &[u8], at: usize| u32::from_le_bytes(content[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 40 + number(content, 16).next_multiple_of(8);
    loop {
        let length = number(content, at);
        let in_page = at % 8192 + length <= 8192;
        assert!(length >= 24, "no commit in the segment");
        if in_page && content[at + 17] == 1 && content[at + 16] & 0x70 == 0 {
            content[at + 26] ^= 1;
            let crc = crc32c::crc32c(&content[at + 24..at + length]);
            let crc = crc32c::crc32c_append(crc, &content[at..at + 20]);
            content[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
            return at;
        }
        let mut left = length;
        while at % 8192 + left > 8192 {
            left -= 8192 - at % 8192;
            at = at / 8192 * 8192 + 8192 + 24;
        }
        at = (at + left).next_multiple_of(8);
        if at.is_multiple_of(8192) {
            at += 24;
        }
    }
}
