//! What a comparison does: which receivers, how often, for how long; and how far it has come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::receiver::{Contender, Program};
use crate::results::{BASELINE, Kind, Metric, Run};

/// One receiver in one round.
#[derive(Debug, Clone)]
pub struct Visit {
    /// What is done.
    pub kind: Kind,
    /// From 1.
    pub round: u32,
    /// Whether it is this receiver's last visit in the case.
    pub is_last: bool,
    /// Which receiver.
    pub contender: Contender,
}

impl Visit {
    /// What it measured, without latencies.
    pub fn run(&self, measures: BTreeMap<Metric, f64>) -> Run {
        Run {
            receiver: self.contender.key.to_owned(),
            round: self.round,
            measures,
            latencies: None,
            series: Vec::new(),
            rollovers_s: Vec::new(),
        }
    }
}

/// What is done.
#[derive(Debug)]
pub struct Plan {
    /// Numbers of clients that commit.
    pub clients: Vec<u32>,
    /// Rounds of the main case on the first disk.
    pub rounds: u32,
    /// How long a run is timed.
    pub seconds: f64,
    /// What is compared.
    pub contenders: Vec<Contender>,
    /// A trial: everything as short as possible.
    pub is_quick: bool,
    /// What could not be done, one sentence each.
    pub skipped: Vec<String>,
    start: Instant,
    expected_s: f64,
    begun_s: f64,
}

impl Plan {
    /// A plan of which nothing is done yet.
    pub fn new(
        clients: Vec<u32>,
        rounds: u32,
        seconds: f64,
        contenders: Vec<Contender>,
        is_quick: bool,
    ) -> Plan {
        Plan {
            clients,
            rounds,
            seconds,
            contenders,
            is_quick,
            skipped: Vec::new(),
            start: Instant::now(),
            expected_s: 0.0,
            begun_s: 0.0,
        }
    }

    /// All visits of a case, in their order: in every second round the receivers come in the opposite one, so
    /// that a drift of the machine favours none.
    pub fn visits(&self, kind: Kind, is_given: bool) -> Vec<Visit> {
        let mut visits = Vec::new();
        for round in 1..=self.rounds {
            let mut these: Vec<Visit> = Vec::new();
            for contender in &self.contenders {
                let rounds = self.rounds_of(contender, kind, is_given);
                if takes_part(contender, kind, is_given) && round <= rounds {
                    these.push(Visit {
                        kind,
                        round,
                        is_last: round == rounds,
                        contender: contender.clone(),
                    });
                }
            }
            if round % 2 == 0 {
                these.reverse();
            }
            visits.append(&mut these);
        }
        visits
    }

    /// Counts a case in, for the time that is left.
    pub fn expect(&mut self, kind: Kind, is_given: bool) {
        let visits = self.visits(kind, is_given);
        self.expected_s += visits.iter().map(|visit| self.estimate_s(visit)).sum::<f64>();
    }

    /// A visit begins: says so, and how much time is left.
    pub fn begin(&mut self, disk: &str, visit: &Visit) {
        let spent_s = self.start.elapsed().as_secs_f64();
        // Early on the estimate counts, later what it has turned out to be.
        let pace = (spent_s + 20.0) / (self.begun_s + 20.0);
        let left = Duration::from_secs_f64((self.expected_s - self.begun_s).max(0.0) * pace).as_secs();
        self.begun_s += self.estimate_s(visit);
        let kind = name_of(visit.kind);
        eprintln!(
            "{disk}, {kind}, round {}: {} (about {}:{:02} left)",
            visit.round,
            visit.contender.key,
            left / 60,
            left % 60
        );
    }

    /// Notes what could not be done, once.
    pub fn skip(&mut self, sentence: String) {
        if !self.skipped.contains(&sentence) {
            eprintln!("{sentence}");
            self.skipped.push(sentence);
        }
    }

    /// Before what is timed, so that it is in its stride.
    pub fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.is_quick { 100 } else { 300 })
    }

    /// How long a run is timed.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// How often something is repeated that a slow receiver takes seconds for.
    pub fn tries(&self, visit: &Visit) -> u32 {
        if self.is_quick || visit.contender.key == BASELINE {
            1
        } else {
            3
        }
    }

    /// Clients that a contender is measured with.
    pub fn clients_of<'a>(&'a self, contender: &Contender) -> impl Iterator<Item = u32> + 'a {
        let is_variant = is_variant(contender);
        let all = self.clients.iter().copied();
        all.filter(move |clients| !is_variant || [1, 16].contains(clients))
    }

    fn rounds_of(&self, contender: &Contender, kind: Kind, is_given: bool) -> u32 {
        let is_main = kind == Kind::Commit && is_given;
        let most = if is_main && [BASELINE, "walring"].contains(&contender.key) {
            u32::MAX
        } else {
            3
        };
        self.rounds.min(most)
    }

    fn estimate_s(&self, visit: &Visit) -> f64 {
        let baseline = visit.contender.key == BASELINE;
        let standby = if visit.contender.program == Program::Standby {
            1.5
        } else {
            0.0
        };
        let one = self.seconds + 0.4;
        let work = match visit.kind {
            Kind::Commit => self.clients_of(&visit.contender).count() as f64 * one,
            Kind::OpenLoop => one,
            Kind::Rollover => 2.0 * one,
            Kind::Bulk => one + 1.0,
            Kind::Boundary | Kind::Reconnect if baseline => 6.0,
            Kind::CatchUp if self.is_quick => 0.5,
            Kind::CatchUp if baseline => 5.0,
            Kind::CatchUp => 2.0,
            Kind::Boundary | Kind::Reconnect | Kind::StartUp => 1.0,
        };
        work + standby + 0.7
    }
}

/// Another way to do the same, measured on the given disk with few clients, to save time.
fn is_variant(contender: &Contender) -> bool {
    ["walring-dsync", "walring-fdatasync"].contains(&contender.key)
}

/// Not everything is worth its time everywhere.
fn takes_part(contender: &Contender, kind: Kind, is_given: bool) -> bool {
    let key = contender.key;
    match kind {
        Kind::Commit if is_given => true,
        Kind::Commit => [BASELINE, "walring", "standby", "floor"].contains(&key),
        Kind::Rollover | Kind::Bulk if is_given => [BASELINE, "walring", "standby", "floor"].contains(&key),
        Kind::OpenLoop | Kind::Rollover | Kind::Bulk => [BASELINE, "walring", "floor"].contains(&key),
        Kind::CatchUp => [BASELINE, "walring", "walring-off", "floor"].contains(&key),
        Kind::Boundary | Kind::Reconnect | Kind::StartUp => [BASELINE, "walring"].contains(&key),
    }
}

/// As the command line has it.
pub fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Commit => "commit",
        Kind::OpenLoop => "open_loop",
        Kind::Rollover => "rollover",
        Kind::Bulk => "bulk",
        Kind::Boundary => "boundary",
        Kind::CatchUp => "catch_up",
        Kind::Reconnect => "reconnect",
        Kind::StartUp => "start_up",
    }
}
