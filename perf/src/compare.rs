//! `walring-perf compare`: everything, and its results in files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::plan::{Plan, name_of};
use crate::primary::Installation;
use crate::receiver::{Contender, Programs, contenders};
use crate::report;
use crate::results::{BASELINE, Comparison, Disk, FORMAT, Kind};
use crate::scenario::Bench;
use crate::site::Site;
use crate::{interrupt, machine};

/// Numbers of clients up to this can be asked for; the primary takes no more connections.
const MOST_CLIENTS: u32 = 64;

/// The command line.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Receive into a new directory under DIR, which must be on a disk
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Disks: `given` (the one of --dir), and emulated ones: nvme, ssd, emmc, hdd [default: given,emmc]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    disk: Vec<String>,
    /// Numbers of clients that commit [default: 1,4,16,64]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_CLIENTS)))]
    clients: Vec<u32>,
    /// Receivers besides pg_receivewal [default: all that can run here]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    receivers: Vec<String>,
    /// Cases: commit, open_loop, rollover, bulk, boundary, catch_up, reconnect, start_up; the last four are
    /// run on the first disk only [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = parse_kind)]
    cases: Vec<Kind>,
    /// Rounds; every second one in the opposite order [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each run is timed [default: 1.5]
    #[arg(long, value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// A trial of everything: one round, short runs, the given disk, few clients
    #[arg(long)]
    quick: bool,
    /// Where comparison.json, comparison.html and comparison.md are put
    #[arg(long, value_name = "DIR", default_value = "target/comparison")]
    output: PathBuf,
}

/// All cases, in the order in which they run.
const KINDS: [Kind; 8] = [
    Kind::Commit,
    Kind::OpenLoop,
    Kind::Rollover,
    Kind::Bulk,
    Kind::Boundary,
    Kind::Reconnect,
    Kind::StartUp,
    Kind::CatchUp,
];

fn parse_kind(text: &str) -> std::result::Result<Kind, String> {
    let names = || KINDS.map(name_of).join(", ");
    let kind = KINDS.into_iter().find(|kind| name_of(*kind) == text);
    kind.ok_or_else(|| format!("there are {}", names()))
}

fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("between 0.1 and 600".to_owned())
    }
}

/// Compares, writes the three files, and prints the Markdown.
pub fn run(options: &Options) -> Result<()> {
    interrupt::listen()?;
    let (comparison, outcome) = compare(options)?;
    write(&comparison, &options.output)?;
    if outcome.is_err() {
        eprintln!("what was measured until then is in {}", options.output.display());
    }
    outcome?;
    print!("{}", report::markdown(&comparison));
    eprintln!("written to {}", options.output.display());
    Ok(())
}

/// Makes HTML and Markdown again from a file that an earlier comparison wrote, beside it.
pub fn report_again(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let comparison: Comparison =
        serde_json::from_str(&text).with_context(|| format!("{} is not a comparison", file.display()))?;
    if comparison.format != FORMAT {
        bail!(
            "{} has format {}, this program reads {FORMAT}",
            file.display(),
            comparison.format
        );
    }
    write_reports(&comparison, file.parent().unwrap_or(Path::new("")))
}

fn write(comparison: &Comparison, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let json = serde_json::to_string(comparison)?;
    std::fs::write(directory.join("comparison.json"), json).context("write comparison.json")?;
    write_reports(comparison, directory)
}

fn write_reports(comparison: &Comparison, directory: &Path) -> Result<()> {
    std::fs::write(directory.join("comparison.html"), report::html(comparison))
        .context("write comparison.html")?;
    std::fs::write(directory.join("comparison.md"), report::markdown(comparison))
        .context("write comparison.md")
}

/// What was measured, and what ended it early.
fn compare(options: &Options) -> Result<(Comparison, Result<()>)> {
    let (start, started) = (Instant::now(), jiff::Timestamp::now());
    let programs = Programs::find()?;
    let mut plan = plan(options, &programs)?;
    let (sites, kinds) = (sites(options, &mut plan)?, kinds(options));
    for (index, site) in sites.iter().enumerate() {
        for &kind in kinds_on(&kinds, index) {
            plan.expect(kind, site.is_given());
        }
    }
    note_first_disk_only(&mut plan, &kinds, &sites);
    let receivers = plan
        .contenders
        .iter()
        .map(|contender| contender.describe(&programs))
        .collect();
    let rounds = plan.rounds;
    let mut bench = Bench::new(&mut plan, &programs);
    let machine = machine::describe(&programs, bench.primary()?)?;
    let mut disks: Vec<Disk> = sites.iter().map(Site::describe).collect();
    let mut outcome = Ok(());
    for (index, site) in sites.iter().enumerate() {
        let kinds = kinds_on(&kinds, index);
        outcome = outcome.and_then(|()| measure_disk(&mut bench, site, kinds, &mut disks[index]));
    }
    drop(bench);
    if let Err(error) = &outcome {
        plan.skipped
            .push(format!("The comparison ended early: {error:#}."));
    }
    let comparison = Comparison {
        format: FORMAT,
        started: started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        took_s: start.elapsed().as_secs_f64(),
        command: command_line(),
        rounds,
        machine,
        receivers,
        disks,
        skipped: plan.skipped,
    };
    Ok((comparison, outcome))
}

fn measure_disk(bench: &mut Bench, site: &Site, kinds: &[Kind], disk: &mut Disk) -> Result<()> {
    for &kind in kinds {
        disk.cases.extend(bench.cases(site, kind)?);
    }
    Ok(())
}

/// What is run on the disk with this index: what takes long and depends little on the disk, on the first only.
fn kinds_on(kinds: &[Kind], index: usize) -> &[Kind] {
    let everywhere = kinds.iter().take_while(|kind| !is_for_first_disk(**kind)).count();
    if index == 0 { kinds } else { &kinds[..everywhere] }
}

fn is_for_first_disk(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Boundary | Kind::Reconnect | Kind::StartUp | Kind::CatchUp
    )
}

fn note_first_disk_only(plan: &mut Plan, kinds: &[Kind], sites: &[Site]) {
    let names: Vec<&str> = kinds
        .iter()
        .filter(|kind| is_for_first_disk(**kind))
        .map(|kind| name_of(*kind))
        .collect();
    if sites.len() > 1 && !names.is_empty() {
        plan.skip(format!(
            "On {} only, to save time: {}.",
            sites[0].key(),
            names.join(", ")
        ));
    }
}

fn plan(options: &Options, programs: &Programs) -> Result<Plan> {
    let (all, mut skipped) = contenders(programs);
    let chosen = choose(all, &options.receivers, &mut skipped)?;
    let or = |given: &[u32], usual: &[u32]| {
        if given.is_empty() {
            usual.to_vec()
        } else {
            given.to_vec()
        }
    };
    let (clients, rounds, seconds): (&[u32], _, _) = if options.quick {
        (&[1, 4], 1, 0.4)
    } else {
        (&[1, 4, 16, 64], 5, 1.5)
    };
    let mut plan = Plan::new(
        or(&options.clients, clients),
        options.rounds.unwrap_or(rounds),
        options.seconds.unwrap_or(seconds),
        chosen,
        options.quick,
    );
    skipped.into_iter().for_each(|sentence| plan.skip(sentence));
    Ok(plan)
}

/// Those asked for, and the baseline, without which there is no comparison.
fn choose(all: Vec<Contender>, asked: &[String], skipped: &mut Vec<String>) -> Result<Vec<Contender>> {
    if asked.is_empty() {
        return Ok(all);
    }
    let is_known = |name: &String| all.iter().any(|contender| contender.key == name);
    let left_out = |name: &String| {
        skipped
            .iter()
            .any(|sentence| sentence.starts_with(&format!("{name} ")))
    };
    if let Some(unknown) = asked.iter().find(|name| !is_known(name) && !left_out(name)) {
        let names: Vec<&str> = all.iter().map(|contender| contender.key).collect();
        bail!(
            "--receivers: no \"{unknown}\" here; there are {}",
            names.join(", ")
        );
    }
    skipped.retain(|sentence| asked.iter().any(|name| sentence.starts_with(&format!("{name} "))));
    let is_asked =
        |contender: &Contender| contender.key == BASELINE || asked.iter().any(|name| name == contender.key);
    Ok(all.into_iter().filter(is_asked).collect())
}

fn kinds(options: &Options) -> Vec<Kind> {
    let is_asked = |kind: &Kind| options.cases.is_empty() || options.cases.contains(kind);
    KINDS.into_iter().filter(is_asked).collect()
}

/// The disks; one that cannot be had here is left out, with a sentence.
fn sites(options: &Options, plan: &mut Plan) -> Result<Vec<Site>> {
    let usual: &[&str] = if options.quick {
        &["given"]
    } else {
        &["given", "emmc"]
    };
    let asked: Vec<String> = if options.disk.is_empty() {
        usual.iter().map(ToString::to_string).collect()
    } else {
        options.disk.clone()
    };
    let mut sites = Vec::new();
    for key in asked {
        match Site::find(&key, &options.dir)? {
            Ok(site) => sites.push(site),
            Err(reason) => plan.skip(format!("The disk {key} is left out: {reason}.")),
        }
    }
    if sites.is_empty() {
        bail!("there is no disk to compare on: {}", plan.skipped.join(" "));
    }
    refuse_standby_out_of_reach(&sites, plan)?;
    Ok(sites)
}

/// A standby runs as a user of its own, which must reach the disk.
fn refuse_standby_out_of_reach(sites: &[Site], plan: &mut Plan) -> Result<()> {
    let installation = Installation::find()?;
    let out_of_reach = sites.iter().find(|site| !installation.can_reach(site.path()));
    let Some(site) = out_of_reach else { return Ok(()) };
    let before = plan.contenders.len();
    plan.contenders.retain(|contender| contender.key != "standby");
    if plan.contenders.len() < before {
        let path = site.path().display();
        plan.skip(format!(
            "standby is left out: the user postgres cannot use {path}."
        ));
    }
    Ok(())
}

fn command_line() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    ["walring-perf".to_owned()]
        .into_iter()
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}
