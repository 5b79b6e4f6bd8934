//! Killed at random moments, hundreds of times, walring and the server, with an oracle: the clients keep a ledger of the
//! commits that were acknowledged to them. After each kill the directory is looked at; every so often walring and the
//! server die at once, the server's data is lost, and every commit in the ledger has to be found again by query in
//! what a base backup and the directory restore.
//!
//! `KILLS=n` kills walring n times, `SEED=n` takes other moments. (The seed fixes what is tried and how long is
//! waited; what a kill meets is up to the machine.)
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::clients::Clients;
use common::receiver::walring_command;
use common::restore::restore;
use common::{Archive, Lsn, Process, Server, ServerOptions, Session, stored, wait};
use rustix::process::{Pid, Signal, kill_process};

/// Of walring, in a run of all tests.
const USUAL_KILLS: u32 = 240;

/// Each a server, its clients, and one walring for which their commits wait.
const WORLDS: u32 = 3;

const CLIENTS: usize = 3;

/// Kills of walring between two of the server.
const KILLS_OF_ONE: u32 = 20;

/// Every so many kills of the server its data is lost.
const LOST: u32 = 4;

/// While a server is dead, somebody else may get its port; its socket stays its own.
const NO_PORT: &str = "listen_addresses = ''\n";

#[test]
fn every_acknowledged_commit_survives_kills_of_walring_and_of_the_server_at_any_instant() {
    let (kills, seed) = (number("KILLS", USUAL_KILLS), number("SEED", 1));
    let started = Instant::now();
    let tallies = std::thread::scope(|scope| {
        let worlds: Vec<_> = (0..WORLDS)
            .map(|world| {
                let share = kills / WORLDS + u32::from(world < kills % WORLDS);
                scope.spawn(move || World::new(u64::from(seed * WORLDS + world)).run(share))
            })
            .collect();
        let ends = worlds
            .into_iter()
            .map(|world| world.join().expect("a world's oracle is content"));
        ends.collect::<Vec<Tally>>()
    });
    let sum = |count: fn(&Tally) -> u32| tallies.iter().map(count).sum::<u32>();
    eprintln!(
        "seed {seed}: walring was killed {} times, the server {} times; {} recoveries; {} commits acknowledged; {:?}",
        sum(|tally| tally.kills),
        sum(|tally| tally.servers),
        sum(|tally| tally.recoveries),
        sum(|tally| tally.commits),
        started.elapsed()
    );
}

fn number(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect(variable))
}

/// What has happened.
#[derive(Default)]
struct Tally {
    kills: u32,
    servers: u32,
    recoveries: u32,
    commits: u32,
}

/// A server, its clients, and the walring that is killed.
struct World {
    server: Arc<Server>,
    /// Rests when the server dies; opened again with the next query.
    observer: Option<Session>,
    archive: Archive,
    walring: Option<Process>,
    arguments: &'static [&'static str],
    clients: Clients,
    /// A base backup; its WAL is in the archive.
    backup: Option<Server>,
    /// What has to be in the archive.
    acknowledged: Option<Lsn>,
    /// The finished segments before this were compared already.
    compared: String,
    random: fastrand::Rng,
    tally: Tally,
}

impl World {
    fn new(seed: u64) -> World {
        let server = ServerOptions::default()
            .config("synchronous_standby_names = 'receiver'")
            .config(NO_PORT)
            .config("wal_keep_size = 300MB") // hours of kills write more than memory holds
            .config("max_wal_size = 200MB")
            .start();
        let (server, archive) = (Arc::new(server), Archive::new());
        Clients::create_table(&server);
        server.sql("set synchronous_commit = local; select pg_create_physical_replication_slot('kept')");
        let mut world = World {
            clients: Clients::start(CLIENTS, {
                let server = Arc::clone(&server);
                move || Session::open(&server)
            }),
            server,
            observer: None,
            archive,
            walring: None,
            arguments: [&["--synchronous"][..], &["--synchronous", "--slot=kept"]][(seed % 2) as usize],
            backup: None,
            acknowledged: None,
            compared: String::new(),
            random: fastrand::Rng::with_seed(seed),
            tally: Tally::default(),
        };
        world.back_up();
        world
    }

    fn run(mut self, kills: u32) -> Tally {
        for round in 1.. {
            while self.tally.kills < kills && self.tally.kills < round * KILLS_OF_ONE {
                self.kill_at_some_moment();
            }
            let is_last = self.tally.kills >= kills;
            if is_last || round % LOST == 0 {
                self.lose_the_server();
            } else {
                self.kill_the_server();
            }
            if is_last {
                break;
            }
            self.back_up_if_restored();
        }
        self.tally.commits = self.clients.ledger().rows.len() as u32;
        self.tally
    }

    fn kill_at_some_moment(&mut self) {
        match self.random.u32(0..10) {
            0..3 => self.kill_streaming(),
            3..5 => self.kill_at_the_end_of_a_segment(),
            5..7 => self.kill_catching_up(),
            7..9 => self.kill_starting(),
            _ => self.kill_twice(),
        }
    }

    fn kill_streaming(&mut self) {
        self.stream();
        self.pause_ms(120);
        self.observe();
        self.pause_ms(3);
        self.kill();
    }

    fn kill_at_the_end_of_a_segment(&mut self) {
        self.stream();
        self.observe();
        self.ask("select pg_switch_wal()");
        self.pause_ms(4);
        self.kill();
    }

    fn kill_catching_up(&mut self) {
        self.end_walring();
        let kilobytes = self.random.u32(500..6000);
        self.ask(&format!(
            "select count(pg_logical_emit_message(false, 'behind', repeat(md5(random()::text), 32))) \
             from generate_series(1, {kilobytes})"
        ));
        self.start();
        self.pause_ms(60);
        self.observe();
        self.kill();
    }

    fn kill_starting(&mut self) {
        self.end_walring();
        self.start();
        self.pause_ms(40);
        self.kill();
    }

    /// Without a look at the directory in between: the second kill meets what the first one left.
    fn kill_twice(&mut self) {
        self.stream();
        self.pause_ms(20);
        self.observe();
        self.end_walring();
        self.start();
        self.pause_ms(15);
        self.kill();
    }

    /// Kills the server, or only one of its processes, after which it throws out the others; walring goes on, or meets
    /// nobody.
    fn kill_the_server(&mut self) {
        self.stream();
        self.pause_ms(50);
        self.observe();
        if self.random.bool() {
            let backends = "select pid from pg_stat_activity where backend_type in ('client backend', 'walsender') \
                            and pid <> pg_backend_pid() order by random() limit 1";
            if let Some(pid) = self
                .ask(backends)
                .and_then(|pid| Pid::from_raw(pid.parse().ok()?))
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        } else {
            self.server.kill_all();
            if self.random.bool() {
                self.kill();
                self.start();
                self.pause_ms(40);
            }
            self.server.start_again();
        }
        self.observer = None;
        self.tally.servers += 1;
        wait::until("the server answers", || self.ask("select 1"));
    }

    /// walring and the server die at once, in any order; what is left restores every acknowledged commit.
    fn lose_the_server(&mut self) {
        self.stream();
        let before = self.clients.ledger().rows.len();
        wait::until("a commit is acknowledged", || {
            (self.clients.ledger().rows.len() > before).then_some(())
        });
        self.pause_ms(50);
        if self.random.bool() {
            self.server.kill_all();
            self.kill();
        } else {
            let walring = self.walring.as_ref().expect("walring runs");
            walring.signal(Signal::KILL);
            self.server.kill_all();
            self.kill();
        }
        self.observer = None;
        let copy = self.backup.take().expect("there is a base backup");
        restore(&copy, &self.archive);
        self.clients.assert_all_are_in(&copy);
        stored::verify(&self.archive, &["--quiet"]).assert_success();
        (self.tally.servers, self.tally.recoveries) = (self.tally.servers + 1, self.tally.recoveries + 1);
        eprintln!(
            "after {} kills: {} commits",
            self.tally.kills,
            self.clients.ledger().rows.len()
        );
        drop(copy);
        self.server.start_again();
    }

    fn back_up_if_restored(&mut self) {
        if self.backup.is_none() {
            self.back_up();
        }
    }

    /// Begins anew: with a base backup, and a directory without what lies before it.
    fn back_up(&mut self) {
        self.stream();
        let copy = self.server.base_backup(&["-X", "none"]);
        copy.append_config(NO_PORT);
        let label = std::fs::read_to_string(copy.data().join("backup_label")).expect("read backup_label");
        let first = label
            .split(['(', ')', ' '])
            .find(|word| common::archive::is_segment(word));
        let first = first.expect("the label names a segment");
        for name in self
            .archive
            .segments()
            .iter()
            .filter(|name| name.as_str() < first)
        {
            std::fs::remove_file(self.archive.file(name)).expect("remove an old segment");
        }
        self.backup = Some(copy);
    }

    /// Starts walring unless it runs, and waits until it streams.
    fn stream(&mut self) {
        if self.walring.is_none() {
            self.start();
        }
        let latest = "select state from pg_stat_replication order by backend_start desc limit 1";
        wait::until("walring streams", || {
            self.ask(latest).filter(|state| state == "streaming")
        });
    }

    fn start(&mut self) {
        let command = walring_command(&self.server, &self.archive, self.arguments);
        self.walring = Some(Process::spawn(command));
    }

    /// Remembers what is acknowledged by now.
    fn observe(&mut self) {
        let flushed =
            self.ask("select max(flush_lsn) from pg_stat_replication where application_name = 'receiver'");
        let flushed = flushed.and_then(|lsn| lsn.parse().ok());
        self.acknowledged = self.acknowledged.max(flushed);
    }

    fn end_walring(&mut self) {
        if let Some(walring) = self.walring.take() {
            walring.kill();
            self.tally.kills += 1;
        }
    }

    fn kill(&mut self) {
        self.end_walring();
        // What is in the ledger even now waited for the walring that is dead.
        self.acknowledged = self.acknowledged.max(self.clients.ledger().position);
        let newest = self
            .archive
            .assert_sound(&self.server, &self.compared, self.acknowledged);
        self.compared = newest.unwrap_or_default();
        let newest_segments = format!("--start={}", self.newest_segments());
        if !self.archive.names().is_empty() {
            stored::verify(&self.archive, &["--quiet", &newest_segments]).assert_success();
        }
    }

    /// Where the segment before that of the acknowledged position begins.
    fn newest_segments(&self) -> Lsn {
        let segment_bytes = self.server.segment_bytes();
        let position = self.acknowledged.unwrap_or(Lsn(0));
        Lsn(position.0.saturating_sub(segment_bytes)).segment_start(segment_bytes)
    }

    fn ask(&mut self, query: &str) -> Option<String> {
        let session = self.observer.get_or_insert_with(|| Session::open(&self.server));
        let answer = session.ask(query);
        if answer.is_none() {
            self.observer = None;
        }
        answer
    }

    fn pause_ms(&mut self, longest: u64) {
        std::thread::sleep(Duration::from_micros(self.random.u64(0..longest * 1000)));
    }
}
