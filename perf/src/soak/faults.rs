//! The faults of a soak, and in which order they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use fastrand::Rng;
use rustix::fs::FallocateFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::scene::{RECEIVER, Scene, pause};

/// What is done to the primary, the receivers, the links between them and their disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The connections of one receiver or of both are closed between them and the primary
    Cut,
    /// The primary ends its walsenders
    Terminate,
    /// Links carry nothing for a moment, then everything
    HoldUp,
    /// Connections carry nothing any more and are not closed
    Silence,
    /// SIGSTOP for a receiver, for about a second
    StopReceiver,
    /// SIGSTOP for all of the primary, for about a second
    StopPrimary,
    /// SIGTERM for the synchronous receiver, which is started again
    RestartReceiver,
    /// SIGKILL for the synchronous receiver, which is started again
    KillReceiver,
    /// A fast shutdown of the primary
    RestartPrimary,
    /// An immediate shutdown of the primary, which recovers
    CrashPrimary,
    /// SIGKILL for the postmaster
    KillPrimary,
    /// The receivers' disk is full for some seconds
    FullDisk,
    /// A segment is left before it is full
    SwitchSegment,
    /// A checkpoint: full pages follow, old WAL goes
    Checkpoint,
    /// VACUUM of what the load has updated
    Vacuum,
}

impl Fault {
    /// As the command line and the report call it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What it is, for the report.
    pub fn about(self) -> String {
        let value = self.to_possible_value();
        let help = value.and_then(|value| Some(value.get_help()?.to_string()));
        help.unwrap_or_default()
    }

    /// Whether it is what servers do anyway, and no fault.
    pub fn is_chore(self) -> bool {
        matches!(self, Fault::SwitchSegment | Fault::Checkpoint | Fault::Vacuum)
    }

    /// Whether it ends the synchronous receiver's process.
    pub fn ends_receiver(self) -> bool {
        matches!(self, Fault::RestartReceiver | Fault::KillReceiver)
    }
}

/// Which fault is next: each once, in random order, then all again.
pub struct Deck {
    all: Vec<Fault>,
    left: Vec<Fault>,
    random: Rng,
    /// How often each came.
    pub drawn: BTreeMap<Fault, u64>,
}

impl Deck {
    /// A deck of these faults.
    pub fn new(all: Vec<Fault>, random: Rng) -> Deck {
        Deck {
            left: Vec::new(),
            drawn: all.iter().map(|fault| (*fault, 0)).collect(),
            all,
            random,
        }
    }

    /// The next one; in `calm` times none that ends the receiver. `None` if there is none such.
    pub fn draw(&mut self, calm: bool) -> Option<Fault> {
        let may_come = |fault: &Fault| !(calm && fault.ends_receiver());
        if !self.left.iter().any(may_come) {
            self.left.clone_from(&self.all);
            self.random.shuffle(&mut self.left);
        }
        let at = self.left.iter().position(may_come)?;
        let fault = self.left.remove(at);
        *self.drawn.entry(fault).or_default() += 1;
        Some(fault)
    }

    /// Whether each has come.
    pub fn was_complete(&self) -> bool {
        self.drawn.values().all(|count| *count > 0)
    }
}

impl Scene {
    /// Does it, and ends it.
    pub fn apply(&mut self, fault: Fault, random: &mut Rng) -> Result<()> {
        let moment = Duration::from_millis(random.u64(500..1500));
        // The first, the second, or both.
        let chosen = [[true, false], [false, true], [true, true]][random.usize(..3)];
        let links = || self.relays.iter().zip(chosen).filter(|(_, chosen)| *chosen);
        match fault {
            Fault::Cut => links().for_each(|(relay, _)| relay.cut()),
            Fault::Silence => links().for_each(|(relay, _)| relay.fall_silent()),
            Fault::HoldUp => {
                links().for_each(|(relay, _)| relay.hold(true));
                let paused = pause(moment);
                self.relays.iter().for_each(|relay| relay.hold(false));
                paused?;
            }
            Fault::Terminate => self
                .primary
                .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")?,
            Fault::StopReceiver => {
                let index = random.usize(..2);
                self.receivers[index].signal(Signal::STOP)?;
                let paused = pause(moment);
                self.receivers[index].signal(Signal::CONT)?;
                paused?;
            }
            Fault::StopPrimary => self.stop_primary(moment)?,
            Fault::RestartReceiver | Fault::KillReceiver => {
                let hard = fault == Fault::KillReceiver;
                self.receivers[RECEIVER].end(if hard { Signal::KILL } else { Signal::TERM })?;
                self.check_stored()?;
                self.receivers[RECEIVER].start()?;
            }
            Fault::RestartPrimary => self.restart_primary(Signal::INT)?,
            Fault::CrashPrimary => self.restart_primary(Signal::QUIT)?,
            Fault::KillPrimary => self.restart_primary(Signal::KILL)?,
            Fault::FullDisk => self.fill_disk(moment * 2)?,
            Fault::SwitchSegment => self.primary.execute("SELECT pg_switch_wal()")?,
            Fault::Checkpoint => self.primary.execute("CHECKPOINT")?,
            Fault::Vacuum => self.primary.execute("VACUUM accounts")?,
        }
        Ok(())
    }

    fn restart_primary(&mut self, signal: Signal) -> Result<()> {
        let installation = self.programs.installation.clone();
        self.primary.restart(&installation, signal)
    }

    /// The postmaster first, so that it starts no other process meanwhile.
    fn stop_primary(&self, moment: Duration) -> Result<()> {
        let postmaster = self.primary.postmaster();
        let mut pids = vec![postmaster];
        signal_all(&pids, Signal::STOP);
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        pids.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
        signal_all(&pids, Signal::STOP);
        let paused = pause(moment);
        signal_all(&pids, Signal::CONT);
        paused
    }

    /// The archivers wait meanwhile, or they would make room. Several segments are begun, so that the receivers need
    /// some.
    fn fill_disk(&mut self, moment: Duration) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let ballast = disk.path().join("ballast");
        let archives = self.archives.clone();
        let _archivers: Vec<_> = archives.iter().map(|archive| archive.lock()).collect();
        fill(&File::create(&ballast)?).context("fill the disk")?;
        let begun = (0..4).try_for_each(|_| {
            self.primary
                .execute("SELECT pg_logical_emit_message(false, 'soak', 'x'); SELECT pg_switch_wal()")
        });
        let paused = begun.and_then(|()| pause(moment));
        std::fs::remove_file(&ballast).context("make room on the disk")?;
        paused
    }
}

/// Those that have ended meanwhile are left out.
fn signal_all(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process(pid, signal);
    }
}

/// Takes all the space there is.
fn fill(file: &File) -> Result<()> {
    let mut end = 0;
    for piece in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        loop {
            match rustix::fs::fallocate(file, FallocateFlags::empty(), end, piece) {
                Ok(()) => end += piece,
                Err(rustix::io::Errno::NOSPC) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_comes_once_before_any_comes_again() {
        let all = Fault::value_variants().to_vec();
        let mut deck = Deck::new(all.clone(), Rng::with_seed(7));
        for round in 1..4 {
            for _ in &all {
                assert_eq!(deck.was_complete(), round > 1);
                deck.draw(false).unwrap();
                if round == 1 && deck.was_complete() {
                    break;
                }
            }
            assert!(deck.drawn.values().all(|count| *count == round));
        }
    }

    #[test]
    fn in_calm_times_the_receiver_is_not_ended() {
        let mut deck = Deck::new(vec![Fault::KillReceiver, Fault::Cut], Rng::with_seed(7));
        assert!((0..10).all(|_| deck.draw(true) == Some(Fault::Cut)));
        assert_eq!(Deck::new(vec![Fault::KillReceiver], Rng::new()).draw(true), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let draw = |seed| {
            let mut deck = Deck::new(Fault::value_variants().to_vec(), Rng::with_seed(seed));
            (0..100).map(|_| deck.draw(false)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
