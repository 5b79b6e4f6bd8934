//! A disk that gives errors or does not answer, under a real walring: nothing is acknowledged that is not there, it
//! is said in one line, and walring goes on when it can.
//!
//! Needs root, FUSE and loop devices; a test that cannot have them says `skipped` and why.

use std::time::Duration;

use rustix::process::Signal;
use walring_perf::disk::crash::{Crash, Fate, now_ns};
use walring_perf::disk::{Behaviour, Faults, Filesystem};

mod recorded;

use recorded::common::lsn::Lsn;
use recorded::common::process::{Exit, Process};
use recorded::common::wait::until;
use recorded::{Bench, DISK_MIB, Demand};

const WRITES_FAIL: Faults = Faults {
    write: Behaviour::Fails,
    flush: Behaviour::Works,
};

const FLUSHES_FAIL: Faults = Faults {
    write: Behaviour::Works,
    flush: Behaviour::Fails,
};

const WRITES_HANG: Faults = Faults {
    write: Behaviour::Hangs,
    flush: Behaviour::Works,
};

const FLUSHES_HANG: Faults = Faults {
    write: Behaviour::Works,
    flush: Behaviour::Hangs,
};

/// On such a disk a durable write is waited for in place.
const QUICK: Duration = Duration::ZERO;

/// On such a disk it goes through the ring.
const SLOW: Duration = Duration::from_millis(4);

#[test]
fn an_error_of_a_write_ends_it_with_one_line_and_loses_nothing() {
    for (filesystem, flush, method) in cases() {
        let Some(bench) = Bench::new(filesystem, flush) else {
            return;
        };
        let (exit, then) = fail(&bench, WRITES_FAIL, method);
        assert_one_error(&exit, &["could not write WAL file"]);
        assert_nothing_is_lost(bench, then);
    }
}

#[test]
fn an_error_of_a_flush_ends_it_with_one_line_and_loses_nothing() {
    for (filesystem, flush, method) in cases() {
        let Some(bench) = Bench::new(filesystem, flush) else {
            return;
        };
        let (exit, then) = fail(&bench, FLUSHES_FAIL, method);
        // A write that is durable by itself does not tell which half of it failed.
        let words = match method {
            "--durable-method=fdatasync" => &["could not fsync"][..],
            _ => &["could not fsync", "could not write WAL file"],
        };
        assert_one_error(&exit, words);
        assert_nothing_is_lost(bench, then);
    }
}

#[test]
fn a_slow_disk_that_hangs_is_waited_for_and_the_server_is_answered_meanwhile() {
    for faults in [WRITES_HANG, FLUSHES_HANG] {
        let Some(bench) = Bench::new(Filesystem::Ext4, SLOW) else {
            return;
        };
        bench.server.append_config("wal_sender_timeout = 3s\n");
        bench.server.sql("select pg_reload_conf()");
        let receiver = receiving(&bench, &["--synchronous", "-s", "1"]);
        let before = (bench.acknowledged(), bench.relay.acknowledged().len());
        let broken = bench.broken(faults);
        let commit = bench.server.start_sql("create table hung ()");
        // Twice as long as the server bears silence. What was on its way may still be acknowledged.
        until("six statuses", || {
            (bench.relay.acknowledged().len() > before.1 + 6).then_some(())
        });
        assert!(bench.acknowledged() < bench.server.flush_lsn(), "acknowledged");
        drop(broken);
        commit.finish().assert_success();
        assert_eq!(bench.relay.connections(), 1, "the link stays");
        receiver.stop();
        assert_nothing_is_lost(bench, now_ns());
    }
}

/// Where a durable write is waited for in place, the server hears nothing meanwhile and ends the link; that is all.
/// On a busy machine the disk may not be so quick: then it is answered.
#[test]
fn a_quick_disk_that_hangs_is_waited_for_and_the_link_made_again_if_it_is_lost() {
    let Some(bench) = Bench::new(Filesystem::Ext4, QUICK) else {
        return;
    };
    bench.server.append_config("wal_sender_timeout = 3s\n");
    bench.server.sql("select pg_reload_conf()");
    let receiver = receiving(&bench, &["--synchronous", "-s", "1"]);
    let before = bench.relay.acknowledged().len();
    let broken = bench.broken(FLUSHES_HANG);
    let commit = bench.server.start_sql("create table hung ()");
    let ended = until("the server ends the link, or is answered", || {
        let ended = bench.server.log().contains("due to replication timeout");
        let answered = bench.relay.acknowledged().len() > before + 6;
        (ended || answered).then_some(ended)
    });
    println!(
        "the link {}",
        if ended {
            "was ended"
        } else {
            "stayed: the disk was not quick"
        }
    );
    assert!(bench.acknowledged() < bench.server.flush_lsn(), "acknowledged");
    drop(broken);
    commit.finish().assert_success();
    receiver.stop();
    assert_nothing_is_lost(bench, now_ns());
}

#[test]
fn a_disk_that_hangs_is_told_and_does_not_hold_up_the_end_for_ever() {
    for flush in [QUICK, SLOW] {
        let Some(bench) = Bench::new(Filesystem::Ext4, flush) else {
            return;
        };
        let receiver = receiving(&bench, &["--synchronous"]);
        let broken = bench.broken(FLUSHES_HANG);
        let commit = bench.server.start_sql("create table hung ()");
        receiver.wait_for_line("warning: the disk has not answered for ");
        receiver.signal(Signal::TERM);
        receiver.wait_for_line("error: stopped; the disk has not answered for 10 seconds");
        let then = assert_given_up(&bench, receiver, broken);
        drop(commit);
        assert_nothing_is_lost(bench, then);
    }
}

#[test]
fn a_second_signal_ends_it_at_once_while_the_disk_hangs() {
    for (flush, faults) in [(QUICK, FLUSHES_HANG), (SLOW, FLUSHES_HANG), (SLOW, WRITES_HANG)] {
        let Some(bench) = Bench::new(Filesystem::Ext4, flush) else {
            return;
        };
        let receiver = receiving(&bench, &["--synchronous"]);
        let broken = bench.broken(faults);
        let flushed = bench.acknowledged();
        let commit = bench.server.start_sql("create table hung ()");
        until("the commit waits for the disk", || {
            (bench.server.flush_lsn() > flushed).then_some(())
        });
        // Two kinds: two of one kind may be delivered as one.
        receiver.signal(Signal::TERM);
        receiver.signal(Signal::INT);
        receiver.wait_for_line("error: stopped by a second signal, without waiting for the disk");
        let then = assert_given_up(&bench, receiver, broken);
        drop(commit);
        assert_nothing_is_lost(bench, then);
    }
}

#[test]
fn a_start_on_a_disk_that_hangs_can_be_given_up() {
    let Some(bench) = Bench::new(Filesystem::Ext4, SLOW) else {
        return;
    };
    receiving(&bench, &["--synchronous"]).kill();
    std::fs::write(bench.disk.path().join("dirty"), "something to sync").expect("a file");
    let walsenders = |wanted: bool| {
        let count = "select count(*) > 0 from pg_stat_activity where backend_type = 'walsender'";
        until("the server lets it in, or knows that it is gone", || {
            ((bench.server.sql(count) == "t") == wanted).then_some(())
        });
    };
    walsenders(false);
    let broken = bench.broken(FLUSHES_HANG);
    let receiver = Process::spawn(bench.receiver(&bench.archive(), &["--synchronous"]));
    walsenders(true);
    receiver.signal(Signal::TERM);
    receiver.signal(Signal::INT);
    receiver.wait_for_line("error: stopped by a second signal");
    let then = assert_given_up(&bench, receiver, broken);
    assert_nothing_is_lost(bench, then);
}

#[test]
fn a_disk_that_hangs_while_the_first_segment_is_zeroed_is_told_and_can_be_given_up() {
    // Slow enough for zeroing to last.
    let Some(bench) = Bench::on(Filesystem::Ext4, Duration::from_millis(5), QUICK) else {
        return;
    };
    let arguments = ["--synchronous", "--durable-method=dsync"];
    let receiver = Process::spawn(bench.receiver(&bench.archive(), &arguments));
    let spare = bench.archive().join(".walring-spare-0");
    until("the first segment is being zeroed", || {
        spare.exists().then_some(())
    });
    let broken = bench.broken(WRITES_HANG);
    receiver.wait_for_line("warning: the disk has not answered for ");
    receiver.signal(Signal::TERM);
    receiver.wait_for_line("error: stopped; the disk has not answered for 10 seconds");
    let then = assert_given_up(&bench, receiver, broken);
    assert_nothing_is_lost(bench, then);
}

/// Each file system, each way to wait for a durable write, each method.
fn cases() -> [(Filesystem, Duration, &'static str); 4] {
    let (dsync, fdatasync) = ("--durable-method=dsync", "--durable-method=fdatasync");
    [
        (Filesystem::Ext4, QUICK, dsync),
        (Filesystem::Ext4, SLOW, fdatasync),
        (Filesystem::Xfs, QUICK, fdatasync),
        (Filesystem::Xfs, SLOW, dsync),
    ]
}

/// Walring as the server's synchronous standby, which has acknowledged so many commits that it knows the disk.
fn receiving(bench: &Bench, arguments: &[&str]) -> Process {
    let receiver = bench.streaming(arguments);
    bench.make_synchronous();
    bench.start_load(25).finish().assert_success();
    receiver
}

/// Breaks the disk while commits wait for it; how walring ends, and when.
fn fail(bench: &Bench, faults: Faults, method: &str) -> (Exit, u64) {
    let receiver = receiving(bench, &["--synchronous", method]);
    let load = bench.start_load(5000);
    bench.wait_acknowledged(Lsn(bench.acknowledged().0 + (100 << 10)));
    let broken = bench.broken(faults);
    let exit = receiver.finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let then = now_ns();
    drop((broken, load));
    (exit, then)
}

/// One line, which begins so and names a segment's file and what the system says.
#[track_caller]
fn assert_one_error(exit: &Exit, words: &[&str]) {
    let errors: Vec<&String> = exit
        .stderr
        .iter()
        .filter(|line| line.contains("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{exit:#?}");
    let says = |text: &str| errors[0].contains(text);
    assert!(words.iter().any(|words| says(words)), "{exit:#?}");
    assert!(
        says("\"0000000100000000") && says("Input/output error"),
        "{exit:#?}"
    );
}

/// It has said what became of what was not durable, has left the server, and ends as soon as the kernel lets it.
/// Gives the last moment before that.
#[track_caller]
fn assert_given_up(bench: &Bench, receiver: Process, broken: recorded::Broken<'_>) -> u64 {
    receiver.wait_for_line("detail: What was received and is not durable was not acknowledged");
    until("the server knows that nobody receives", || {
        bench
            .server
            .receiver_column("state")
            .is_none_or(|state| state != "streaming")
            .then_some(())
    });
    let then = now_ns();
    drop(broken);
    let exit = receiver.finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    then
}

/// A crash at that moment loses nothing of what was acknowledged, whatever else it loses, and walring goes on
/// behind it.
fn assert_nothing_is_lost(bench: Bench, then_ns: u64) {
    let recorded = bench.finish();
    let mut crash = Crash::new(&recorded.recording, DISK_MIB, recorded.home.path()).expect("what is durable");
    let point = recorded.recording.point_at(then_ns);
    crash.advance(point).expect("the point");
    for fate in [Fate::Lost, Fate::Kept, Fate::Chance(fastrand::u64(..))] {
        recorded.look_at(&crash, point, fate, Demand::All, "");
    }
}
