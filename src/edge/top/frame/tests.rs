use super::*;
use crate::edge::status::Totals;

const ROOM: Size = Size {
    columns: 80,
    rows: 24,
};

/// A receiver in good health.
pub(in crate::edge::top) fn status() -> Status {
    let lsn = |text: &str| Some(text.to_owned());
    Status {
        version: "0.1.0".into(),
        status: "streaming".into(),
        healthy: true,
        reason: None,
        uptime_seconds: 7384.2,
        time_unix_seconds: 1_700_000_000.5,
        directory: "/srv/wal".into(),
        slot: Some("archive".into()),
        slot_watch: None,
        synchronous: true,
        verify: "records".into(),
        upstream_host: "db1".into(),
        upstream_port: 5432,
        server_version: Some("15.18 (Debian 15.18-0+deb12u1)".into()),
        system_identifier: Some("7300000000000000001".into()),
        timeline: Some(1),
        segment: Some("0000000100000016000000B3.partial".into()),
        positions: Positions {
            start: lsn("16/B3000000"),
            received: lsn("16/B374D848"),
            verified: lsn("16/B374D840"),
            written: lsn("16/B374D830"),
            flushed: lsn("16/B374D820"),
            reported: lsn("16/B374D810"),
            server_end: lsn("16/B374D850"),
        },
        lag_bytes: 48,
        lag_seconds: 0.0012,
        totals: Totals {
            bytes: 3 << 30,
            transactions: 1_234_567,
            records: 9_999_999,
            segments: 192,
            ..Totals::default()
        },
        free_bytes: Some(18 << 30),
        latency: Latencies {
            durable: Distribution {
                count: 1_234_567,
                mean_us: 240.0,
                p50_us: 210,
                p90_us: 400,
                p99_us: 2_530,
                p999_us: 14_970,
                p9999_us: 20_000,
                max_us: 1_200_000,
                doublings: vec![(128, 9), (256, 5), (1024, 1)],
            },
            ..Latencies::default()
        },
        savings: None,
    }
}

fn view(statuses: impl IntoIterator<Item = Status>) -> View {
    let mut view = View::default();
    statuses.into_iter().for_each(|status| view.history.push(status));
    view
}

fn text(view: &View, size: Size) -> Vec<String> {
    frame(view, size).iter().map(Line::plain).collect()
}

fn one(status: Status) -> String {
    text(&view([status]), ROOM).join("\n")
}

/// A second later, one MiB and a hundred transactions more.
fn later(mut status: Status) -> Status {
    status.uptime_seconds += 1.0;
    status.totals.bytes += 1 << 20;
    status.totals.transactions += 100;
    status
}

#[test]
fn everything_has_its_place_on_80_columns_and_24_rows() {
    let shown = text(&view([status(), later(status())]), ROOM).join("\n");
    let expected = "\
walring 0.1.0 from db1:5432 (PostgreSQL 15.18)        up 2 h 3 min, 22:13:20 UTC
streaming, healthy, slot archive, timeline 1, synchronous, verify records
/srv/wal/0000000100000016000000B3.partial, 18.0 GiB free

received   16/B374D848     verified   16/B374D840     written    16/B374D830
flushed    16/B374D820     reported   16/B374D810     server end 16/B374D850
lag        48 B, 1.20 ms
rate       1.0 MiB/s, 100 transactions/s                                       █
total      3.0 GiB, 192 segments, 1,234,667 transactions

latency                               count      p50      p99    p99.9      max
received → durable                1,234,567   210 µs  2.53 ms  15.0 ms   1.20 s
received → acknowledged                   0        -        -        -        -
commit → durable (two clocks)             0        -        -        -        -
write                                     0        -        -        -        -
durable write                             0        -        -        -        -
sync                                      0        -        -        -        -
rollover                                  0        -        -        -        -

received   █████
→ durable  █████ ▂▂▂▂▂
           █████ █████
           █████ █████       ▄▄▄▄▄
           128µs 256µs 512µs 1ms";
    assert_eq!(shown, expected);
}

#[test]
fn no_frame_is_larger_than_its_room() {
    let mut busy = status();
    busy.savings = Some(Savings::default());
    busy.latency.durable.doublings = (0..60).map(|power| (1 << power, power)).collect();
    let mut view = view([status(), busy]);
    view.problem = Some("gone".into());
    for rows in 1..60 {
        for columns in [1, 20, 79, 80, 81, 200] {
            assert!(frame(&view, Size { columns, rows }).len() <= rows);
        }
    }
    for line in frame(&view, ROOM) {
        assert!(line.width() <= 80, "{}", line.plain());
    }
}

#[test]
fn the_first_status_has_the_mean_rate_and_no_line_of_bars() {
    let shown = one(status());
    assert!(
        shown.contains("rate       426.0 KiB/s, 167 transactions/s  (mean since it started)\n"),
        "{shown}"
    );
}

#[test]
fn the_last_minute_is_a_line_of_bars_as_high_as_its_rates() {
    assert_eq!(sparkline(&[None, Some(0.0), Some(3.5), Some(7.0)]), " ▁▅█");
    assert_eq!(sparkline(&[Some(0.0), Some(0.0)]), "▁▁");
}

#[test]
fn what_is_wrong_is_said_and_marked() {
    let mut ill = status();
    (ill.healthy, ill.reason, ill.status) = (false, Some("the disk has stalled".into()), "waiting".into());
    (ill.totals.disk_errors, ill.totals.reconnects) = (1, 2);
    let lines = frame(&view([ill]), ROOM);
    let reason = Line::of(Style::Bad, "waiting, not healthy: the disk has stalled");
    assert!(lines[1].coloured(80).starts_with(&reason.coloured(80)));
    let totals = lines
        .iter()
        .find(|line| line.plain().starts_with("total"))
        .unwrap();
    assert!(
        totals
            .plain()
            .starts_with("total      1 disk error, 2 reconnects, 3.0 GiB")
    );
    assert!(totals.coloured(80).contains("\x1b[1;31m1 disk error"));
}

#[test]
fn what_is_not_known_yet_is_a_dash_or_left_out() {
    let mut young = status();
    (young.slot, young.timeline, young.segment) = (None, None, None);
    (young.server_version, young.free_bytes) = (None, None);
    (young.synchronous, young.positions) = (false, Positions::default());
    young.uptime_seconds = 0.0;
    let shown = one(young);
    assert!(shown.starts_with("walring 0.1.0 from db1:5432  "), "{shown}");
    assert!(
        shown.contains("\nstreaming, healthy, verify records\n/srv/wal/no file yet\n"),
        "{shown}"
    );
    assert!(shown.contains("server end -\n"), "{shown}");
    assert!(shown.contains("rate       -\n"), "{shown}");
}

#[test]
fn savings_and_losses_are_shown() {
    let mut status = status();
    let mut savings = Savings {
        transactions: 100_000,
        baseline_mean_us: 18_700.0,
        per_transaction_us: 9_200.0,
        total_seconds: 920.0,
    };
    status.savings = Some(savings);
    let shown = one(status.clone());
    let expected = "saved      about 9.20 ms of 18.7 ms per transaction, 920.0 s in 100,000";
    assert!(shown.contains(expected), "{shown}");
    (savings.per_transaction_us, savings.total_seconds) = (-120.0, -12.0);
    status.savings = Some(savings);
    assert!(one(status).contains("lost       about 120 µs of 18.7 ms per transaction, 12.0 s"));
}

#[test]
fn a_receiver_that_is_gone_is_shown_as_it_was_and_said_to_be_gone() {
    let mut view = view([]);
    view.problem = Some("db1:7070: not reachable: Connection refused".into());
    assert_eq!(text(&view, ROOM), ["db1:7070: not reachable: Connection refused"]);
    view.history.push(status());
    let shown = text(&view, ROOM);
    assert_eq!(shown[0], "db1:7070: not reachable: Connection refused");
    assert!(shown[1].starts_with("walring 0.1.0"), "{shown:?}");
    assert!(
        shown[2].starts_with("last seen streaming, slot archive"),
        "{shown:?}"
    );
}

#[test]
fn odd_numbers_are_survived() {
    let mut odd = status();
    (odd.uptime_seconds, odd.time_unix_seconds, odd.lag_seconds) = (1e300, -5.0, 1e300);
    (odd.lag_bytes, odd.totals.bytes) = (u64::MAX, u64::MAX);
    odd.latency.durable.max_us = u64::MAX;
    odd.savings = Some(Savings {
        total_seconds: -1e300,
        per_transaction_us: 1e300,
        ..Savings::default()
    });
    let mut negative = odd.clone();
    negative.uptime_seconds = -1e300;
    assert!(!frame(&view([negative, odd]), ROOM).is_empty());
}

#[test]
fn numbers_are_easily_read() {
    assert_eq!(
        [0, 999, 1000, 1_234_567].map(grouped),
        ["0", "999", "1,000", "1,234,567"]
    );
    assert_eq!([0.04, 9.96, 1234.6].map(per_second), ["0.0", "10.0", "1,234"]);
    let times = [0.0, 999.0, 1500.0, 12_345.0, 999_000.0, 61e6].map(microseconds);
    assert_eq!(
        times,
        ["0 µs", "999 µs", "1.50 ms", "12.3 ms", "999 ms", "61.0 s"]
    );
}
