//! The overview and the sums.

use super::Options;
use super::survey::{Sums, Survey};
use crate::core::history::History;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::wal::page::Version;
use crate::core::wal::scan::End;
use crate::edge::progress_line::in_units;
use crate::edge::stored::{Decoded, Stored};
use crate::edge::table::{Align, Table, grouped};
use serde_json::{Value, json};
use std::fmt::Write;

/// What there is to tell.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) stored: &'a Stored,
    pub(super) timeline: Timeline,
    /// The segments, by their number in `stored`.
    pub(super) looked: &'a [(usize, Decoded)],
    pub(super) survey: &'a Survey,
}

impl Report<'_> {
    /// Whether something in what was looked at is wrong.
    pub(super) fn is_damaged(&self) -> bool {
        self.looked
            .iter()
            .any(|(_, decoded)| !decoded.outcome.damages.is_empty() || decoded.true_name.is_some())
    }

    /// For people. Where something is listed, the list is all there is.
    pub(super) fn text(&self, options: &Options) -> String {
        let mut text = String::new();
        if options.stats {
            text += &self.stats().to_string();
        } else if !options.commits && !options.records {
            text += &self.overview();
        }
        if options.stats || options.commits || options.records {
            for damage in self.damages() {
                let _ = writeln!(text, "damage: {damage}");
            }
        }
        text
    }

    /// For programs: one object.
    pub(super) fn json(&self) -> String {
        let survey = self.survey;
        let (end, reason) = self.end();
        let object = json!({
            "files": self.names(),
            "bytes": self.bytes(),
            "version": self.version().map(Version::major),
            "timeline": self.timeline.0,
            "history": self.history().map(|history| history.forks.iter().map(fork).collect::<Vec<Value>>()),
            "system_identifier": self.stored.format.system_identifier.map(|identifier| identifier.to_string()),
            "segment_size": self.stored.format.segment_size.bytes(),
            "page_size": self.stored.format.block_size,
            "pages": self.pages(),
            "records": self.total().records,
            "first_record": survey.first.map(|lsn| lsn.to_string()),
            "last_record": survey.last.map(|lsn| lsn.to_string()),
            "end": end.to_string(),
            "end_reason": reason,
            "commits": survey.commits,
            "first_commit": survey.first_commit.map(|time| time.to_string()),
            "last_commit": survey.last_commit.map(|time| time.to_string()),
            "damages": self.damages(),
            "stats": survey.sums.iter().map(|(manager, sums)| json!({
                "resource_manager": manager.to_string(),
                "records": sums.records,
                "record_bytes": sums.bytes,
                "image_bytes": sums.image_bytes,
            })).collect::<Vec<Value>>(),
            "transactions": survey.listed_commits,
            "record_list": survey.listed_records,
        });
        format!("{object}\n")
    }

    fn overview(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let mut line = |what: &str, value: String| {
            let _ = writeln!(text, "{what:<18}{value}");
        };
        let names = self.names();
        match names.as_slice() {
            [first, .., last] => line(
                "segments",
                format!("{} ({first} to {last})", grouped(names.len() as u64)),
            ),
            _ => line("file", names.concat()),
        }
        let bytes = self.bytes();
        line("size", format!("{} bytes ({})", grouped(bytes), in_units(bytes)));
        let version = self
            .version()
            .map_or("unknown".to_owned(), |version| version.major().to_string());
        line("server version", version);
        let identifier = self.stored.format.system_identifier;
        line(
            "system identifier",
            identifier.map_or("unknown".to_owned(), |identifier| identifier.to_string()),
        );
        line("timeline", self.timeline.to_string());
        if let Some(history) = self.history() {
            let forks: Vec<_> = history
                .forks
                .iter()
                .map(|f| format!("{} up to {}", f.timeline, f.end))
                .collect();
            line("history", forks.join(", "));
        }
        let block = self.stored.format.block_size.unwrap_or(0);
        line(
            "pages",
            format!("{} of {} bytes", grouped(self.pages()), grouped(block.into())),
        );
        let survey = self.survey;
        let total = self.total();
        let mut records = grouped(total.records);
        if let (Some(first), Some(last)) = (survey.first, survey.last) {
            records += &format!(", the first at {first}, the last at {last}");
        }
        line("records", records);
        line("page images", format!("{} bytes", grouped(total.image_bytes)));
        let mut commits = grouped(survey.commits);
        if let (Some(first), Some(last)) = (survey.first_commit, survey.last_commit) {
            commits += &format!(", {first} to {last}");
        }
        line("commits", commits);
        let (end, reason) = self.end();
        line("valid up to", format!("{end}: {reason}"));
        for damage in self.damages() {
            line("damage", damage);
        }
        text
    }

    fn stats(&self) -> Table {
        let right = Align::Right;
        let mut table = Table::new(&[
            ("resource manager", Align::Left),
            ("records", right),
            ("%", right),
            ("record bytes", right),
            ("%", right),
            ("image bytes", right),
            ("%", right),
            ("all bytes", right),
            ("%", right),
        ]);
        let total = self.total();
        for (manager, sums) in &self.survey.sums {
            table.row(row(manager.to_string(), sums, &total));
        }
        table.row(row("total".to_owned(), &total, &total));
        table
    }

    fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.survey.sums.values().for_each(|sums| total.add(*sums));
        total
    }

    fn names(&self) -> Vec<String> {
        self.looked
            .iter()
            .map(|(number, _)| self.stored.segments[*number].name())
            .collect()
    }

    fn bytes(&self) -> u64 {
        self.looked.iter().map(|(_, decoded)| decoded.bytes).sum()
    }

    fn pages(&self) -> u64 {
        self.looked.iter().map(|(_, decoded)| decoded.outcome.pages).sum()
    }

    fn version(&self) -> Option<Version> {
        self.stored.format.magic.and_then(Version::of_magic)
    }

    fn history(&self) -> Option<&History> {
        self.stored.histories.get(&self.timeline)
    }

    fn damages(&self) -> Vec<String> {
        let mut damages = Vec::new();
        for (number, decoded) in self.looked {
            let name = self.stored.segments[*number].name();
            if let Some((timeline, is)) = decoded.true_name {
                let right = is.file_name(timeline, self.stored.format.segment_size);
                damages.push(format!(
                    "{name}: holds segment {right}, and should have that name"
                ));
            }
            damages.extend(
                decoded
                    .outcome
                    .damages
                    .iter()
                    .map(|damage| format!("{name}: {}", damage.fault)),
            );
        }
        damages
    }

    /// Up to where the log is valid without a break, and why not further.
    fn end(&self) -> (Lsn, String) {
        let size = self.stored.format.segment_size;
        for (number, decoded) in self.looked {
            let segment = &self.stored.segments[*number];
            if let Some(damage) = decoded.outcome.damages.first() {
                let at = damage.within.unwrap_or(damage.fault.place.lsn());
                return (at, format!("damage, {}", damage.fault));
            }
            if let End::Log { at, unfinished } = decoded.outcome.end {
                let reason = match unfinished {
                    Some(_) if segment.is_complete() => {
                        "a record begins there that goes on in the next segment"
                    }
                    Some(_) => "a record begins there that is not complete",
                    None if segment.is_complete() => "the file ends, or what is asked for",
                    None => "zeros follow",
                };
                return (at, reason.to_owned());
            }
        }
        let last = self
            .looked
            .last()
            .map(|(number, _)| self.stored.segments[*number].file.segment);
        let end = last.map_or(Lsn::INVALID, |last| size.end_of(last));
        let reason = match (self.survey.ends_with_switch, self.survey.last) {
            (true, Some(at)) => format!("the segment's end, after a switch at {at}"),
            _ => "the segment's end".to_owned(),
        };
        (end, reason)
    }
}

fn row(name: String, sums: &Sums, total: &Sums) -> Vec<String> {
    let share = |part: u64, all: u64| format!("{:.2}", 100.0 * part as f64 / all.max(1) as f64);
    let (all, most) = (sums.bytes + sums.image_bytes, total.bytes + total.image_bytes);
    vec![
        name,
        grouped(sums.records),
        share(sums.records, total.records),
        grouped(sums.bytes),
        share(sums.bytes, total.bytes),
        grouped(sums.image_bytes),
        share(sums.image_bytes, total.image_bytes),
        grouped(all),
        share(all, most),
    ]
}

fn fork(fork: &crate::core::history::Fork) -> Value {
    json!({ "timeline": fork.timeline.0, "end": fork.end.to_string() })
}
