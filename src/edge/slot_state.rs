//! What the server says of a replication slot, and whether that is a reason to worry.
//!
//! A server with `max_slot_wal_keep_size` keeps WAL for a slot up to that much; what a slot needs beyond is removed at
//! a checkpoint, and then the slot is lost, whoever uses it. Source: PostgreSQL doc system-views.sgml,
//! "pg_replication_slots".

use super::connection::{Connection, Row};
use super::progress_line::in_units;
use crate::core::lsn::Lsn;
use crate::error::{Error, Result, printable};

/// Servers from here on tell whether a slot's WAL is kept.
const TELLS_WAL_STATUS: u32 = 130_000;

/// Servers from here on tell why a slot was invalidated.
const TELLS_REASON: u32 = 170_000;

/// `wal_status`, from bad to good; the numbers are those of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalStatus {
    /// WAL that it needs is gone.
    Lost = 0,
    /// WAL that it needs goes with the next checkpoint.
    Unreserved = 1,
    /// More than `max_wal_size` is kept for it.
    Extended = 2,
    /// All is usual.
    Reserved = 3,
}

impl WalStatus {
    /// The server's word for it.
    pub fn word(self) -> &'static str {
        match self {
            WalStatus::Lost => "lost",
            WalStatus::Unreserved => "unreserved",
            WalStatus::Extended => "extended",
            WalStatus::Reserved => "reserved",
        }
    }

    fn parse(text: &str) -> Option<WalStatus> {
        use WalStatus::{Extended, Lost, Reserved, Unreserved};
        let all = [Lost, Unreserved, Extended, Reserved];
        all.into_iter().find(|status| status.word() == text)
    }
}

/// A slot at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotState {
    /// `None` while the slot keeps nothing, because it was never used.
    pub wal_status: Option<WalStatus>,
    /// So much more WAL can be written before the slot is lost; below zero where only a checkpoint is missing for
    /// that. `None` where there is no limit, and where it is lost.
    pub safe_wal_bytes: Option<i64>,
    /// The oldest position that is kept.
    pub restart_lsn: Option<Lsn>,
    /// Whether somebody streams from it.
    pub active: bool,
    /// Why the server has given it up, if it has and says so.
    pub invalidation_reason: Option<String>,
    /// `max_slot_wal_keep_size` in bytes; `None` if there is no limit.
    pub limit: Option<i64>,
    /// The size of a segment in bytes.
    pub segment: i64,
}

/// How worrying that is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Danger {
    /// Not at all.
    None,
    /// Little more is kept.
    Low,
    /// The next checkpoint takes WAL away that was not received.
    Acute,
    /// It is too late.
    Lost,
}

impl SlotState {
    /// Asks about a slot; `None` if there is none of this name.
    pub async fn ask(connection: &mut Connection, slot: &str) -> Result<Option<SlotState>> {
        let version = connection.server_version_num();
        if version < TELLS_WAL_STATUS {
            return Err(Error::unsupported(
                "the server is too old to tell how much WAL it keeps for a slot: PostgreSQL 13 is needed",
            ));
        }
        let rows = connection.query(&question(slot, version)).await?;
        rows.first().map(SlotState::of).transpose()
    }

    fn of(row: &Row) -> Result<SlotState> {
        let text = |at: usize| {
            let value = row.get(at).and_then(Option::as_ref);
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let number = |at: usize| -> Result<Option<i64>> {
            let parsed = text(at).map(|text| text.parse().map_err(|_| not_understood(&text)));
            parsed.transpose()
        };
        let status = text(0).map(|word| WalStatus::parse(&word).ok_or_else(|| not_understood(&word)));
        let lsn = text(2).map(|text| text.parse().map_err(|_| not_understood(&text)));
        Ok(SlotState {
            wal_status: status.transpose()?,
            safe_wal_bytes: number(1)?,
            restart_lsn: lsn.transpose()?,
            active: text(3).as_deref() == Some("t"),
            invalidation_reason: text(4).map(|reason| printable(&reason)),
            limit: number(5)?
                .filter(|&mb| mb >= 0)
                .map(|mb| mb.saturating_mul(1 << 20)),
            segment: number(6)?.unwrap_or(16 << 20),
        })
    }

    /// How worrying it is. What was found worrying before stays so until there is clearly more room.
    pub fn danger(&self, before: Danger) -> Danger {
        let safe = self.safe_wal_bytes.unwrap_or(i64::MAX);
        let enough = match before {
            Danger::None => self.little(),
            _ => self.little().saturating_add(self.little() / 4),
        };
        match self.wal_status {
            Some(WalStatus::Lost) => Danger::Lost,
            _ if self.invalidation_reason.is_some() => Danger::Lost,
            Some(WalStatus::Unreserved) => Danger::Acute,
            _ if safe < enough => Danger::Low,
            _ => Danger::None,
        }
    }

    /// Less than that is little, in bytes: a tenth of the limit, which is about what a stream that stands still has
    /// left when nine tenths of its time are over; at least two segments, for the limit counts in segments; and at
    /// most half of the limit, where that is a few segments only.
    fn little(&self) -> i64 {
        let limit = self.limit.unwrap_or(0);
        (limit / 10).max(self.segment.saturating_mul(2)).min(limit / 2)
    }

    /// The danger in words, for a slot of this name.
    pub fn words(&self, slot: &str, danger: Danger) -> String {
        let limit = self
            .limit
            .map_or("none".to_owned(), |limit| in_units(limit.unsigned_abs()));
        match danger {
            Danger::None => format!("replication slot \"{slot}\" is out of danger"),
            Danger::Low => {
                let safe = self.safe_wal_bytes.unwrap_or(0);
                let safe = in_units(u64::try_from(safe).unwrap_or(0));
                format!(
                    "replication slot \"{slot}\" is in danger: when the server has written {safe} more than is received, it \
                     gives the slot up (max_slot_wal_keep_size is {limit})"
                )
            }
            Danger::Acute => format!(
                "replication slot \"{slot}\" is in danger: the server removes its WAL at the next checkpoint \
                 (max_slot_wal_keep_size is {limit})"
            ),
            Danger::Lost => {
                let reason = self.invalidation_reason.as_ref();
                let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
                format!(
                    "replication slot \"{slot}\" is lost{reason}: the server does not keep what was not received"
                )
            }
        }
    }
}

/// The question, with the columns that this version has.
fn question(slot: &str, version: u32) -> String {
    let reason = match version {
        TELLS_REASON.. => "invalidation_reason",
        _ => "NULL",
    };
    let setting = |name: &str| format!("(SELECT setting FROM pg_catalog.pg_settings WHERE name = '{name}')");
    let slot = slot.replace('\\', "\\\\").replace('\'', "''");
    format!(
        "SELECT wal_status, safe_wal_size, restart_lsn, active, {reason}, {}, {} \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = E'{slot}'",
        setting("max_slot_wal_keep_size"),
        setting("wal_segment_size")
    )
}

fn not_understood(text: &str) -> Error {
    Error::protocol(format!(
        "what the server says of the slot is not understood: \"{text}\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const MB: i64 = 1 << 20;

    fn state(safe: i64, limit: i64) -> SlotState {
        SlotState {
            wal_status: Some(WalStatus::Extended),
            safe_wal_bytes: Some(safe),
            limit: Some(limit),
            segment: 16 * MB,
            ..SlotState::default()
        }
    }

    #[test]
    fn a_tenth_of_the_limit_is_little_but_two_segments_are_and_half_of_it_is_most() {
        for (limit, little) in [(1000 * MB, 100 * MB), (100 * MB, 32 * MB), (48 * MB, 24 * MB)] {
            assert_eq!(state(little, limit).danger(Danger::None), Danger::None);
            assert_eq!(state(little - 1, limit).danger(Danger::None), Danger::Low);
            assert_eq!(state(little, limit).danger(Danger::Low), Danger::Low);
            assert_eq!(state(little * 5 / 4, limit).danger(Danger::Low), Danger::None);
        }
    }

    #[test]
    fn without_a_limit_nothing_is_in_danger_and_what_is_lost_is_lost() {
        let unlimited = SlotState {
            safe_wal_bytes: None,
            limit: None,
            ..state(0, 0)
        };
        assert_eq!(unlimited.danger(Danger::None), Danger::None);
        assert_eq!(SlotState::default().danger(Danger::None), Danger::None);
        let with = |wal_status| SlotState {
            wal_status: Some(wal_status),
            ..unlimited.clone()
        };
        assert_eq!(with(WalStatus::Unreserved).danger(Danger::Low), Danger::Acute);
        assert_eq!(with(WalStatus::Lost).danger(Danger::None), Danger::Lost);
        let idle = SlotState {
            invalidation_reason: Some("idle_timeout".to_owned()),
            ..with(WalStatus::Reserved)
        };
        assert_eq!(idle.danger(Danger::None), Danger::Lost);
        assert!(
            idle.words("s", Danger::Lost)
                .contains("\"s\" is lost (idle_timeout)")
        );
    }

    #[test]
    fn a_row_is_read_as_the_server_writes_it() {
        let row = |values: [Option<&str>; 7]| -> Row {
            values
                .map(|value| value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
                .into()
        };
        let never_used = [None, None, None, Some("f"), None, Some("-1"), Some("16777216")];
        let state = SlotState::of(&row(never_used)).unwrap();
        let expected = SlotState {
            segment: 16 * MB,
            ..SlotState::default()
        };
        assert_eq!(state, expected);
        let used = [
            "unreserved",
            "-5",
            "0/3000000",
            "t",
            "wal_removed",
            "64",
            "1048576",
        ];
        let state = SlotState::of(&row(used.map(Some))).unwrap();
        assert_eq!(
            (state.safe_wal_bytes, state.limit, state.segment),
            (Some(-5), Some(64 * MB), MB)
        );
        assert_eq!((state.restart_lsn, state.active), (Some(Lsn(0x300_0000)), true));
        assert!(SlotState::of(&row(["good", "1", "0/1", "t", "", "1", "1"].map(Some))).is_err());
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert!(question("s", 130_000).ends_with("NULL, (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size') FROM pg_catalog.pg_replication_slots WHERE slot_name = E's'"));
        assert!(question("a'b\\", 170_000).ends_with("slot_name = E'a''b\\\\'"));
        assert!(question("s", 170_000).contains(" invalidation_reason,"));
    }
}
