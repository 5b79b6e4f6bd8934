//! The replication commands.
//!
//! Source: PostgreSQL doc protocol.sgml, "Streaming Replication Protocol"; the wording of errors is
//! that of pg_receivewal.

use std::str::FromStr;

use bytes::Bytes;

use crate::core::lsn::{Lsn, SegmentSize, Timeline};
use crate::edge::advice::{MISSING_SLOT, STREAM_ENDED};
use crate::edge::connection::{Answer, Connection, Row};
use crate::edge::wire::hung_up;
use crate::error::{Error, Result};

/// SQLSTATE duplicate_object.
const DUPLICATE_OBJECT: &str = "42710";

/// SQLSTATE undefined_object: here, a replication slot.
const UNDEFINED_OBJECT: &str = "42704";

/// The oldest server that can be asked about a replication slot.
const READ_REPLICATION_SLOT_VERSION: u32 = 150_000;

/// Which server this is and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// What tells this cluster and its copies from every other.
    pub system_identifier: u64,
    /// The server's timeline.
    pub timeline: Timeline,
    /// How far its log is flushed (on a standby: flushed or replayed).
    pub flushed: Lsn,
}

/// What a physical replication slot holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The oldest position that is kept; `None` before the slot was ever used.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position, as far as the server knows it.
    pub restart_timeline: Option<Timeline>,
}

/// A timeline history file as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Its name, `0000000A.history`.
    pub file_name: String,
    /// Its content, byte for byte.
    pub content: Bytes,
}

/// How START_REPLICATION was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAnswer {
    /// The stream begins.
    Streaming,
    /// The start position is where the timeline ends: there is nothing to stream on it.
    EndOfTimeline {
        /// The timeline that goes on from there.
        next: Timeline,
        /// Where it begins.
        switch: Lsn,
    },
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The timeline ended. The connection can be used on.
    EndOfTimeline {
        /// The timeline that goes on.
        next: Timeline,
        /// Where it begins.
        switch: Lsn,
    },
    /// The client ended it. The connection can be used on.
    Stopped,
    /// The server shuts down, and has closed the connection.
    Shutdown,
}

/// Whether a command failed because there is no such replication slot.
pub fn is_missing_slot(error: &Error) -> bool {
    error.sqlstate() == Some(UNDEFINED_OBJECT)
}

impl Connection {
    /// Asks who the server is and where it stands.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.command("IDENTIFY_SYSTEM").await?;
        let row = only_row(&rows, 3, "could not identify system")?;
        if row.get(3).is_some_and(Option::is_some) {
            return Err(Error::protocol(
                "replication connection is unexpectedly database specific",
            ));
        }
        Ok(SystemIdentity {
            system_identifier: parse_column(row, 0, "system identifier")?,
            timeline: parse_timeline(row, 1, "timeline")?,
            flushed: parse_lsn(row, 2)?,
        })
    }

    /// The size of the server's WAL segments.
    pub async fn wal_segment_size(&mut self) -> Result<SegmentSize> {
        let rows = self.command("SHOW wal_segment_size").await?;
        let row = only_row(&rows, 1, "could not fetch WAL segment size")?;
        let bytes = parse_size(text(row, 0)?)
            .ok_or_else(|| Error::protocol("WAL segment size could not be parsed"))?;
        SegmentSize::new(bytes).ok_or_else(|| {
            Error::protocol(format!(
                "WAL segment size must be a power of two between 1 MB and 1 GB, but the remote server reported a value of {bytes} bytes"
            ))
        })
    }

    /// The mode of the server's data directory; with group access in it, archived files shall have
    /// it too.
    pub async fn data_directory_mode(&mut self) -> Result<u32> {
        let rows = self.command("SHOW data_directory_mode").await?;
        let row = only_row(&rows, 1, "could not fetch group access flag")?;
        let mode = text(row, 0)?;
        u32::from_str_radix(mode, 8)
            .map_err(|_| Error::protocol(format!("group access flag could not be parsed: {mode}")))
    }

    /// What a replication slot holds back.
    ///
    /// Fails if there is no such slot, if it is a logical one, and on servers before 15.
    pub async fn read_replication_slot(&mut self, name: &str) -> Result<Slot> {
        if self.server_version_num() < READ_REPLICATION_SLOT_VERSION {
            return Err(Error::unsupported(
                "the server is too old to read a replication slot: PostgreSQL 15 is needed",
            ));
        }
        let command = format!("READ_REPLICATION_SLOT {}", quoted(name));
        let answer = self.query(&command).await;
        let rows = answer.map_err(|error| {
            error.in_context("could not send replication command \"READ_REPLICATION_SLOT\"")
        })?;
        let row = only_row(&rows, 3, &format!("could not read replication slot \"{name}\""))?;
        if row[0].is_none() {
            // In the words and with the code of those commands that fail by themselves.
            let message = format!("replication slot \"{name}\" does not exist");
            return Err(Error::server(message, UNDEFINED_OBJECT).with_hint(MISSING_SLOT));
        }
        let restart_lsn = row[1].is_some().then(|| parse_lsn(row, 1)).transpose()?;
        let restart_timeline = row[2].is_some().then(|| parse_timeline(row, 2, "restart_tli"));
        Ok(Slot {
            restart_lsn,
            restart_timeline: restart_timeline.transpose()?,
        })
    }

    /// Creates a physical replication slot that holds nothing back before its first use.
    ///
    /// Fails if it exists, unless `if_not_exists`.
    pub async fn create_physical_slot(&mut self, name: &str, if_not_exists: bool) -> Result<()> {
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL", quoted(name));
        match self.command(&command).await {
            Err(error) if if_not_exists && error.sqlstate() == Some(DUPLICATE_OBJECT) => Ok(()),
            Err(error) => Err(error),
            Ok(rows) => {
                only_row(&rows, 4, &format!("could not create replication slot \"{name}\"")).map(drop)
            }
        }
    }

    /// Creates a physical replication slot that holds back WAL at once: what the server has written since its last
    /// checkpoint, at least. False if there was one already.
    pub async fn create_reserving_slot(&mut self, name: &str) -> Result<bool> {
        // The servers' old syntax, which newer ones still know.
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quoted(name));
        match self.command(&command).await {
            Err(error) if error.sqlstate() == Some(DUPLICATE_OBJECT) => Ok(false),
            Err(error) => Err(error),
            Ok(_) => Ok(true),
        }
    }

    /// Drops a replication slot.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted(name));
        self.command(&command).await.map(drop)
    }

    /// The history file of a timeline other than the first.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<TimelineHistory> {
        let answer = self.query(&format!("TIMELINE_HISTORY {timeline}")).await;
        let rows = answer
            .map_err(|error| error.in_context("could not send replication command \"TIMELINE_HISTORY\""))?;
        let row = only_row(&rows, 2, "unexpected response to TIMELINE_HISTORY command")?;
        let file_name = text(row, 0)?.to_owned();
        if file_name != timeline.history_file_name() {
            return Err(Error::protocol(format!(
                "server reported unexpected history file name for timeline {timeline}: {file_name}"
            )));
        }
        let content = row[1].clone().ok_or_else(|| null(1))?;
        Ok(TimelineHistory { file_name, content })
    }

    /// Begins to stream; after [`StartAnswer::Streaming`] the connection is to be detached.
    pub async fn start_replication(
        &mut self,
        slot: Option<&str>,
        lsn: Lsn,
        timeline: Timeline,
    ) -> Result<StartAnswer> {
        let slot = slot.map_or(String::new(), |name| format!("SLOT {} ", quoted(name)));
        let answer = self
            .execute(&format!("START_REPLICATION {slot}{lsn} TIMELINE {timeline}"))
            .await;
        let answer = answer
            .map_err(|error| error.in_context("could not send replication command \"START_REPLICATION\""))?;
        match answer {
            Answer::CopyBoth => Ok(StartAnswer::Streaming),
            Answer::HungUp => Err(hung_up()),
            Answer::Rows(rows) => {
                let (next, switch) = next_timeline(&rows)?;
                Ok(StartAnswer::EndOfTimeline { next, switch })
            }
        }
    }

    /// Reads how the stream ended: to be called once CopyDone was sent, or the server's
    /// CommandComplete is next. Stream data that is still under way is dropped.
    ///
    /// Fails with the server's error if that is what ended the stream.
    pub async fn finish_streaming(&mut self) -> Result<StreamEnd> {
        let answer = self.answer().await.map_err(|error| match error.sqlstate() {
            Some(_) => error.in_context(STREAM_ENDED),
            None => error,
        })?;
        match answer {
            // A server that shuts down says COPY 0 and hangs up.
            Answer::HungUp => Ok(StreamEnd::Shutdown),
            Answer::Rows(rows) if rows.is_empty() => Ok(StreamEnd::Stopped),
            Answer::Rows(rows) => {
                let (next, switch) = next_timeline(&rows)?;
                Ok(StreamEnd::EndOfTimeline { next, switch })
            }
            Answer::CopyBoth => Err(Error::protocol(
                "server began to stream while the stream was to end",
            )),
        }
    }

    /// Runs a command; errors name it.
    async fn command(&mut self, command: &str) -> Result<Vec<Row>> {
        let rows = self.query(command).await;
        rows.map_err(|error| error.in_context(&format!("could not send replication command \"{command}\"")))
    }
}

/// A name as the replication grammar takes it: in double quotes, those within doubled. Old servers
/// see the doubled ones as the end of one name and the start of the next, which no command allows.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The one row of an answer, with at least so many columns.
fn only_row<'a>(rows: &'a [Row], columns: usize, failed: &str) -> Result<&'a Row> {
    match rows {
        [row] if row.len() >= columns => Ok(row),
        _ => Err(Error::protocol(format!(
            "{failed}: got {} rows and {} fields, expected 1 row and {columns} or more fields",
            rows.len(),
            rows.first().map_or(0, Vec::len)
        ))),
    }
}

fn text(row: &Row, column: usize) -> Result<&str> {
    let value = row[column].as_ref().ok_or_else(|| null(column))?;
    std::str::from_utf8(value)
        .map_err(|_| Error::protocol(format!("server sent column {column} in an unknown encoding")))
}

fn null(column: usize) -> Error {
    Error::protocol(format!("server sent NULL in column {column}"))
}

fn parse_column<T: FromStr>(row: &Row, column: usize, what: &str) -> Result<T> {
    let text = text(row, column)?;
    text.parse()
        .map_err(|_| Error::protocol(format!("could not parse {what} \"{text}\"")))
}

fn parse_timeline(row: &Row, column: usize, what: &str) -> Result<Timeline> {
    match parse_column(row, column, what)? {
        0 => Err(Error::protocol(format!(
            "server reported 0 as {what}, which is none"
        ))),
        number => Ok(Timeline(number)),
    }
}

/// No log gets so long that half of all positions were used; what lies behind is no position.
fn parse_lsn(row: &Row, column: usize) -> Result<Lsn> {
    let lsn: Lsn = parse_column(row, column, "write-ahead log location")?;
    match lsn.0 <= u64::MAX / 2 {
        true => Ok(lsn),
        false => Err(Error::protocol(format!(
            "server reported {lsn} as write-ahead log location, which no log reaches"
        ))),
    }
}

/// The row that says where the log goes on: timeline and start.
fn next_timeline(rows: &[Row]) -> Result<(Timeline, Lsn)> {
    let row = only_row(rows, 2, "unexpected result set after end-of-timeline")?;
    let timeline = Timeline(parse_column(row, 0, "next timeline")?);
    Ok((timeline, parse_lsn(row, 1)?))
}

/// A size as SHOW prints it, `16MB` or `1GB`, in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let shift = match unit {
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Row {
        values
            .iter()
            .map(|value| Some(Bytes::copy_from_slice(value.as_bytes())))
            .collect()
    }

    #[test]
    fn segment_sizes_are_read_as_show_prints_them() {
        assert_eq!(parse_size("16MB"), Some(16 << 20));
        assert_eq!(parse_size("1GB"), Some(1 << 30));
        for bad in [
            "",
            "16",
            "MB",
            "16kB",
            "-1MB",
            "99999999999999999999MB",
            "9999999999999GB",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_slot_name_cannot_leave_its_quotes() {
        assert_eq!(quoted("s1"), "\"s1\"");
        assert_eq!(quoted("s\" LOGICAL x"), "\"s\"\" LOGICAL x\"");
    }

    #[test]
    fn where_the_log_goes_on_is_one_row() {
        let next = next_timeline(&[row(&["2", "0/3000000"])]).unwrap();
        assert_eq!(next, (Timeline(2), Lsn(0x300_0000)));
        for bad in [
            vec![],
            vec![row(&["2"])],
            vec![row(&["2", "0/0"]), row(&["3", "0/0"])],
            vec![row(&["x", "0/0"])],
            vec![row(&["2", "0"])],
            vec![vec![None, None]],
        ] {
            assert!(next_timeline(&bad).is_err(), "{bad:?}");
        }
    }
}
