//! Crashes of a real disk under a real walring: whatever its volatile cache loses, tears or keeps, what was
//! acknowledged is there, byte for byte, and walring goes on from it.
//!
//! Every write and flush of a disk is recorded while walring receives onto it, is killed and starts again. For points
//! of that recording images are made as a crash can leave them, mounted, and checked. Needs root, FUSE and loop devices; a
//! test that cannot have them says `skipped` and why.

use std::time::Duration;

use walring_perf::disk::Filesystem;
use walring_perf::disk::crash::{Crash, Fate};

mod recorded;

use recorded::common::lsn::Lsn;
use recorded::common::process::Process;
use recorded::{Bench, DISK_MIB, Demand, Recorded};

#[test]
fn ext4_keeps_what_was_acknowledged_on_a_quick_disk() {
    synchronous(Filesystem::Ext4, Duration::ZERO);
}

#[test]
fn ext4_keeps_what_was_acknowledged_on_a_slow_disk() {
    synchronous(Filesystem::Ext4, Duration::from_millis(4));
}

#[test]
fn xfs_keeps_what_was_acknowledged_on_a_quick_disk() {
    synchronous(Filesystem::Xfs, Duration::ZERO);
}

#[test]
fn xfs_keeps_what_was_acknowledged_on_a_slow_disk() {
    synchronous(Filesystem::Xfs, Duration::from_millis(4));
}

#[test]
fn ext4_keeps_what_was_acknowledged_without_sync() {
    without_sync(Filesystem::Ext4);
}

#[test]
fn xfs_keeps_what_was_acknowledged_without_sync() {
    without_sync(Filesystem::Xfs);
}

/// As the synchronous standby of a server with commits, killed in between.
fn synchronous(filesystem: Filesystem, flush: Duration) {
    let Some(bench) = Bench::new(filesystem, flush) else {
        return;
    };
    let arguments = ["--synchronous"];
    let mut receiver = bench.streaming(&arguments);
    bench.make_synchronous();
    for round in 1..=3 {
        let load = bench.start_load(120);
        let goal = Lsn(bench.acknowledged().0 + (200 << 10) * round);
        bench.wait_acknowledged(goal);
        receiver.kill();
        receiver = bench.streaming(&arguments);
        load.finish().assert_success();
        bench.server.switch_wal();
    }
    receiver.stop();
    bench.finish().crash_everywhere(Demand::All);
}

/// With a slot and `--no-sync`, in the page cache, killed while segments are finished and not synced. What another
/// receiver left unsynced is the worst: the first status claims it.
fn without_sync(filesystem: Filesystem) {
    let Some(bench) = Bench::new(filesystem, Duration::from_millis(20)) else {
        return;
    };
    bench
        .server
        .sql("select pg_create_physical_replication_slot('s1', true)");
    leave_unsynced(&bench);
    for _ in 0..3 {
        let receiver = bench.streaming(&["--no-sync", "--slot=s1", "--buffered", "-s", "1"]);
        let end = bench.server.write_wal(3000);
        bench.wait_acknowledged(Lsn(end.0 - (2 << 20)));
        receiver.kill();
    }
    bench.streaming(&["--no-sync", "--slot=s1", "--buffered"]).stop();
    bench.finish().crash_everywhere(Demand::Acknowledged);
}

/// PostgreSQL's own receiver, which has synced nothing.
fn leave_unsynced(bench: &Bench) {
    let mut command = bench.server.installation().command("pg_receivewal");
    command.arg("-D").arg(bench.archive());
    command.args(["-h", "127.0.0.1", "-p", &bench.server.port().to_string()]);
    command.args(["-U", "postgres", "--no-sync", "--slot=s1", "-v"]);
    let receiver = Process::spawn(command);
    receiver.wait_for_line("starting log streaming");
    let end = bench.server.write_wal(4000);
    let last = Lsn(end.0 - bench.server.segment_bytes()).segment_name(1, bench.server.segment_bytes());
    recorded::common::wait::until("the segments are there", || {
        bench.archive().join(&last).exists().then_some(())
    });
    receiver.stop();
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// The crashes that chance chooses: points in the recording, and what becomes of what is not durable there. A third
/// of them is anywhere, one right behind an acknowledgement, one right before a flush ends; and each start has one.
fn crashes(recorded: &Recorded, seed: u64) -> Vec<(usize, Fate)> {
    let count = number("CRASH_POINTS").unwrap_or(16);
    let mut chance = fastrand::Rng::with_seed(seed);
    let (begin, end) = (
        recorded.recording.point_at(recorded.ready_ns),
        recorded.recording.len(),
    );
    let told: Vec<usize> = recorded
        .acknowledged
        .iter()
        .map(|told| recorded.recording.point_at(told.at_ns))
        .collect();
    let mut flushes = recorded.recording.before_flushes_end();
    flushes.retain(|point| *point >= begin);
    let mut crashes: Vec<(usize, Fate)> = (0..count)
        .map(|number| {
            let point = match number % 3 {
                0 => chance.usize(begin..=end),
                1 => told[chance.usize(..told.len())],
                _ => flushes[chance.usize(..flushes.len())],
            };
            let fate = match chance.u8(..6) {
                0 | 1 => Fate::Lost,
                2 => Fate::Kept,
                _ => Fate::Chance(chance.u64(..)),
            };
            (point, fate)
        })
        .collect();
    crashes.extend(recorded.restarts().map(|point| (point, Fate::Lost)));
    crashes.sort_by_key(|crash| crash.0);
    crashes
}

/// What is done with one recording.
trait Crashes {
    fn restarts(&self) -> impl Iterator<Item = usize>;
    fn crash_everywhere(&self, demand: Demand);
}

impl Crashes for Recorded {
    /// The points at which a receiver that had just started acknowledged for the first time.
    fn restarts(&self) -> impl Iterator<Item = usize> {
        let mut last = 0;
        let firsts = self.acknowledged.iter().filter(move |told| {
            let before = std::mem::replace(&mut last, told.connection);
            told.connection != before
        });
        firsts.map(|told| self.recording.point_at(told.at_ns))
    }

    /// Looks at what crashes leave.
    fn crash_everywhere(&self, demand: Demand) {
        assert!(self.acknowledged.len() > 10, "{:?}", self.acknowledged);
        let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
        let mut crash = Crash::new(&self.recording, DISK_MIB, self.home.path()).expect("what is durable");
        let (mut looked, mut pending) = (0, 0);
        for (point, fate) in crashes(self, seed) {
            pending += crash.advance(point).expect("the next point").min(1);
            self.look_at(&crash, point, fate, demand, &format!("SEED={seed}"));
            looked += 1;
        }
        println!(
            "{looked} crashes of {}, {pending} of them with something to lose; SEED={seed}",
            self.filesystem.key()
        );
    }
}
