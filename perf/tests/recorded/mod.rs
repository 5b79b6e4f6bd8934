//! What the tests of crashes and faults share: a server, a walring on a recorded disk, a relay that notes what it
//! acknowledges, and the check that this is there.
#![allow(dead_code)] // each of the two uses a part of it

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use walring_perf::disk::crash::{Crash, Fate, Mounted, Recording, mend};
use walring_perf::disk::{EdgeDisk, Error, Faults, Filesystem, Profile, Settings};

use common::lsn::Lsn;
use common::postgres::clean;
use common::process::Process;
use common::relay::Relay;
use common::server::{RECEIVER_NAME, Server};
use common::skip::skip;
use common::statuses::Acknowledged;
use common::wait::until;

/// The parts of the receiver's tests that do not start it.
#[path = "../../../tests/common"]
pub mod common {
    pub mod lsn;
    pub mod postgres;
    pub mod process;
    pub mod relay;
    pub mod scratch;
    pub mod server;
    pub mod skip;
    pub mod statuses;
    pub mod wait;
}

/// XFS takes no less than 300.
pub const DISK_MIB: u64 = 320;

/// A server, and walring's directory on a recorded disk.
pub struct Bench {
    pub server: Server,
    pub relay: Relay,
    pub disk: EdgeDisk,
    /// Where the recording, and later the images, are.
    pub home: tempfile::TempDir,
    /// The first segment that walring receives begins here.
    pub first: Lsn,
    /// When the directory was there, CLOCK_MONOTONIC in nanoseconds.
    pub ready_ns: u64,
    filesystem: Filesystem,
}

impl Bench {
    /// A disk with this file system whose flushes take so long; `None`, and reported as skipped, where there is none.
    pub fn new(filesystem: Filesystem, flush: Duration) -> Option<Bench> {
        Bench::on(filesystem, Duration::ZERO, flush)
    }

    /// The same, with writes that take their time, too.
    pub fn on(filesystem: Filesystem, write: Duration, flush: Duration) -> Option<Bench> {
        if std::env::var_os("WALRING_PG").is_none() && !Path::new("/usr/lib/postgresql").is_dir() {
            skip("crashes and faults of a disk: PostgreSQL is not installed");
            return None;
        }
        let home = tempfile::tempdir_in(scratch()).expect("a directory");
        let profile = Profile {
            key: "test",
            about: "a disk for a test",
            write,
            flush,
            rotation: None,
        };
        let settings = Settings {
            size_mib: DISK_MIB,
            filesystem,
            record: Some(home.path().join("log")),
            program: Some(env!("CARGO_BIN_EXE_walring-perf").into()),
            ..Settings::new(profile)
        };
        let disk = match EdgeDisk::with(&settings) {
            Ok(disk) => disk,
            Err(Error::Unavailable(why)) => {
                skip(&format!("crashes and faults of {}: {why}", filesystem.key()));
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        std::fs::create_dir(disk.path().join("archive")).expect("walring's directory");
        rustix::fs::syncfs(std::fs::File::open(disk.path()).expect("the disk")).expect("a sync");
        let server = Server::start();
        let first = server.flush_lsn().segment_start(server.segment_bytes());
        Some(Bench {
            relay: Relay::noting(server.port()),
            server,
            disk,
            home,
            first,
            ready_ns: walring_perf::disk::crash::now_ns(),
            filesystem,
        })
    }

    pub fn archive(&self) -> PathBuf {
        self.disk.path().join("archive")
    }

    /// Starts walring on the disk, and waits until it streams.
    pub fn streaming(&self, arguments: &[&str]) -> Process {
        // Until it has noticed, the server tells of one that was killed.
        until("no receiver is there", || {
            (self.server.sql("select count(*) from pg_stat_replication") == "0").then_some(())
        });
        let receiver = Process::spawn(self.receiver(&self.archive(), arguments));
        until("the receiver streams", || {
            self.server
                .receiver_column("state")
                .filter(|state| state == "streaming")
        });
        receiver
    }

    /// The command line of walring, connected through the relay.
    pub fn receiver(&self, directory: &Path, arguments: &[&str]) -> Command {
        receiver(self.relay.port(), directory, arguments)
    }

    /// From now on commits wait for walring.
    pub fn make_synchronous(&self) {
        self.set_standby(RECEIVER_NAME);
    }

    fn set_standby(&self, name: &str) {
        self.server
            .append_config(&format!("synchronous_standby_names = '{name}'\n"));
        self.server.sql("select pg_reload_conf()");
    }

    /// So many commits of each of four clients, some hundred bytes to some kilobytes each, in the background.
    pub fn start_load(&self, commits: u32) -> Process {
        let script = self.home.path().join("load.sql");
        let text = "\\set size random(1, 120)\nselect pg_logical_emit_message(true, 'load', repeat(md5(random()::text), :size));\n";
        std::fs::write(&script, text).expect("a script");
        let (commits, script) = (commits.to_string(), script.display().to_string());
        self.server
            .start_pgbench(&["-n", "-c", "4", "-t", &commits, "-f", &script])
    }

    /// What walring has acknowledged so far.
    pub fn acknowledged(&self) -> Lsn {
        acknowledged(&self.relay.acknowledged(), u64::MAX).unwrap_or(self.first)
    }

    /// Lets the disk fail or hang until the answer goes out of scope. What waits for a disk that hangs cannot even be
    /// killed.
    #[must_use]
    pub fn broken(&self, faults: Faults) -> Broken<'_> {
        self.disk.set_faults(faults).expect("a broken disk");
        Broken(&self.disk)
    }

    /// Waits until walring has acknowledged that.
    pub fn wait_acknowledged(&self, position: Lsn) {
        until("walring acknowledges", || {
            (self.acknowledged() >= position).then_some(())
        });
    }

    /// Takes the disk away; what it was asked for until then.
    pub fn finish(self) -> Recorded {
        self.set_standby("");
        self.disk.close().expect("the disk goes");
        let log = self.home.path().join("log");
        let recording = Recording::read(&log).expect("the recording");
        std::fs::remove_file(log).expect("make room");
        let acknowledged = self.relay.acknowledged();
        let end = self.server.switch_wal();
        // The end position is passed only when more comes.
        self.server.write_wal(1);
        Recorded {
            server: self.server,
            home: self.home,
            first: self.first,
            end,
            ready_ns: self.ready_ns,
            filesystem: self.filesystem,
            recording,
            acknowledged,
        }
    }
}

/// A disk that fails or hangs.
pub struct Broken<'a>(&'a EdgeDisk);

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        let _ = self.0.set_faults(Faults::default());
    }
}

/// What happened on a disk that is gone, and the server, which is still there.
pub struct Recorded {
    pub server: Server,
    pub home: tempfile::TempDir,
    pub first: Lsn,
    /// A segment's end behind all that was received.
    pub end: Lsn,
    pub ready_ns: u64,
    pub filesystem: Filesystem,
    pub recording: Recording,
    pub acknowledged: Vec<Acknowledged>,
}

/// What of an image is demanded beside what was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Every finished segment is right, and walring goes on to the end.
    All,
    /// Nothing: with `--no-sync` a finished segment may not be there yet.
    Acknowledged,
}

impl Recorded {
    /// Looks at the image that a crash leaves at this point: fails the test, and keeps the image, if something is
    /// not there. `seed` replays the choice.
    pub fn look_at(&self, crash: &Crash<'_>, point: usize, fate: Fate, demand: Demand, seed: &str) {
        let Err(what) = self.look(crash, point, fate, demand) else {
            return;
        };
        let kept = self.keep(crash, fate);
        let (points, filesystem) = (self.recording.len(), self.filesystem.key());
        panic!(
            "{what}\npoint {point} of {points}, {fate:?}, {filesystem}, {seed}\nlook at it: mount -o loop {} DIRECTORY",
            kept.display()
        );
    }

    fn look(&self, crash: &Crash<'_>, point: usize, fate: Fate, demand: Demand) -> Result<(), String> {
        let image = self.home.path().join("image");
        let _ = std::fs::remove_file(&image);
        let torn = crash.image(fate, &image).map_err(|error| error.to_string())?;
        let mount = || Mounted::mount(&image, self.filesystem, self.home.path().join("mounted"));
        let mounted = mount().or_else(|refused| match self.filesystem {
            Filesystem::Ext4 if torn => {
                println!("{fate:?} tore the superblock: e2fsck mends it");
                mend(&image);
                mount()
            }
            _ => Err(refused),
        });
        let mounted = mounted.map_err(|error| error.to_string())?;
        let directory = mounted.path().join("archive");
        let promised = acknowledged(&self.acknowledged, self.recording.until(point)).unwrap_or(self.first);
        let unsynced = demand == Demand::Acknowledged;
        check(&self.server, &directory, self.first, promised, unsynced)
            .map_err(|what| format!("{promised} was acknowledged: {what}"))?;
        if unsynced {
            return Ok(());
        }
        let (start, end) = (
            format!("--start-lsn={}", self.first),
            format!("--endpos={}", self.end),
        );
        let arguments = ["--synchronous", "--no-loop", &start, &end];
        let again = Process::spawn(receiver(self.server.port(), &directory, &arguments)).finish();
        if again.code != Some(0) {
            return Err(format!("it does not go on: {again:#?}"));
        }
        check(&self.server, &directory, self.first, self.end, unsynced)
            .map_err(|what| format!("when it had gone on: {what}"))
    }

    /// The image as the crash left it, kept beside the build.
    fn keep(&self, crash: &Crash<'_>, fate: Fate) -> PathBuf {
        let name = format!("crash-image-{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        crash.image(fate, &path).expect("keep an image");
        path
    }
}

/// The furthest position that was acknowledged by then.
pub fn acknowledged(all: &[Acknowledged], until_ns: u64) -> Option<Lsn> {
    let told = all.iter().filter(|told| told.at_ns <= until_ns);
    told.map(|told| told.flushed).max()
}

/// The command line of walring.
pub fn receiver(port: u16, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(walring()));
    command.arg("receive").arg("-D").arg(directory);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres"]);
    command.args(arguments).env("PGAPPNAME", RECEIVER_NAME);
    command
}

/// The directory must hold the server's WAL byte for byte from `first` up to `end`, without a gap. What is behind
/// that must be right in finished segments, too, unless they may be `unsynced`.
pub fn check(server: &Server, directory: &Path, first: Lsn, end: Lsn, unsynced: bool) -> Result<(), String> {
    let names: Vec<String> = std::fs::read_dir(directory)
        .map_err(|error| format!("no directory: {error}"))?
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let size = server.segment_bytes();
    let failed = |what: String| Err(format!("{what}; there are {names:?}"));
    let mut position = first;
    while position < end {
        let name = position.segment_name(1, size);
        let needed = (end.0 - position.0).min(size) as usize;
        let found = [name.clone(), format!("{name}.partial")]
            .into_iter()
            .find(|name| names.contains(name));
        let Some(found) = found else {
            return failed(format!(
                "no {name}, although {needed} bytes of it were acknowledged"
            ));
        };
        let stored = std::fs::read(directory.join(&found)).map_err(|error| format!("{found}: {error}"))?;
        let original = server.wal_file(&name);
        if stored.len() < needed || stored[..needed] != original[..needed] {
            let at = stored.iter().zip(&original).position(|(a, b)| a != b);
            return failed(format!(
                "{found} ({} bytes) differs at {at:?}, before {needed}",
                stored.len()
            ));
        }
        position = Lsn(position.0 + size);
    }
    for name in names.iter().filter(|name| name.len() == 24 && !unsynced) {
        if std::fs::read(directory.join(name)).map_err(|error| error.to_string())? != server.wal_file(name) {
            return failed(format!("{name} is finished and not right"));
        }
    }
    if names.iter().filter(|name| name.ends_with(".partial")).count() > 1 {
        return failed("there is more than one partial".to_owned());
    }
    Ok(())
}

/// The walring beside the suite, which is built if it is not there.
fn walring() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let beside = || Path::new(env!("CARGO_BIN_EXE_walring-perf")).with_file_name("walring");
        let program = std::env::var_os("WALRING").map_or_else(beside, PathBuf::from);
        if !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "walring", "--bin", "walring"]);
            assert!(
                build.status().expect("run cargo").success(),
                "walring cannot be built"
            );
        }
        program
    })
}

/// In memory, where that is possible: images are many.
fn scratch() -> PathBuf {
    let chosen = std::env::var_os("WALRING_TEST_DIR").map(PathBuf::from);
    chosen.unwrap_or_else(std::env::temp_dir)
}
