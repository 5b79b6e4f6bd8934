//! What people look at: `perf/grafana.json` asks for what a receiver tells, and `walring top` shows a real one.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::http::Http;
use common::{Archive, Process, Server, ServerOptions, receiver, walring};
use prometheus_parse::{Scrape, Value};
use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::visitor::{ExprVisitor, walk_expr};
use serde_json::Value as Json;
use walring::core::measure::Times;
use walring::edge::baseline::write_baseline;

/// Labels that Prometheus adds.
const OF_THE_SCRAPE: [&str; 2] = ["instance", "job"];

/// Metrics that no panel shows: they are for programs.
const FOR_PROGRAMS: [&str; 1] = ["walring_receive_start_lsn"];

/// Series by name, each with the names of its labels.
type Page = BTreeMap<String, BTreeSet<String>>;

/// One query of the dashboard.
#[derive(Debug)]
struct Query {
    panel: String,
    expression: String,
    legend: String,
}

/// What an expression names.
#[derive(Debug, Default)]
struct Named {
    /// Series, each with the labels it is chosen by.
    selectors: Vec<(String, BTreeSet<String>)>,
    /// Labels in `by (...)`.
    kept: Option<BTreeSet<String>>,
    /// Labels in `on (...)` and the like.
    matched: BTreeSet<String>,
}

impl ExprVisitor for Named {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        match expression {
            Expr::VectorSelector(selector) => self.add(selector),
            Expr::MatrixSelector(range) => self.add(&range.vs),
            Expr::Aggregate(aggregate) => {
                let labels = aggregate
                    .modifier
                    .iter()
                    .flat_map(|modifier| &modifier.labels().labels);
                self.kept.get_or_insert_default().extend(labels.cloned());
            }
            Expr::Binary(binary) => {
                let matching = binary
                    .modifier
                    .as_ref()
                    .and_then(|modifier| modifier.matching.as_ref());
                let labels = matching
                    .into_iter()
                    .flat_map(|matching| &matching.labels().labels);
                self.matched.extend(labels.cloned());
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Named {
    fn by(expression: &str) -> Result<Named, String> {
        let mut named = Named::default();
        let Ok(_) = walk_expr(&mut named, &parser::parse(expression)?);
        Ok(named)
    }

    fn add(&mut self, selector: &VectorSelector) {
        let Matchers {
            matchers,
            or_matchers,
        } = &selector.matchers;
        let labels = matchers.iter().chain(or_matchers.iter().flatten());
        let labels = labels.map(|matcher| matcher.name.clone()).collect();
        self.selectors
            .push((selector.name.clone().unwrap_or_default(), labels));
    }

    /// What it names that the page does not have.
    fn missing(&self, page: &Page, legend: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let mut labels: BTreeSet<String> = OF_THE_SCRAPE.map(str::to_owned).into();
        for (name, chosen_by) in &self.selectors {
            let Some(known) = page.get(name) else {
                missing.push(format!("metric {name}"));
                continue;
            };
            let unknown = chosen_by
                .iter()
                .filter(|label| !known.contains(*label) && !OF_THE_SCRAPE.contains(&label.as_str()));
            missing.extend(unknown.map(|label| format!("label {label} of {name}")));
            labels.extend(known.iter().cloned());
        }
        let kept = self.kept.as_ref();
        let named = kept.into_iter().flatten().chain(&self.matched);
        missing.extend(
            named
                .filter(|label| !labels.contains(*label))
                .map(|label| format!("label {label}")),
        );
        let shown = legend
            .split("{{")
            .skip(1)
            .filter_map(|rest| rest.split("}}").next());
        let in_legend = shown.filter(|&label| !kept.unwrap_or(&labels).contains(label));
        missing.extend(in_legend.map(|label| format!("label {label} in the legend")));
        missing
    }
}

fn dashboard() -> Json {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/perf/grafana.json");
    let text = std::fs::read_to_string(path).expect("read the dashboard");
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

fn list<'a>(json: &'a Json, path: &str) -> &'a [Json] {
    json.pointer(path)
        .and_then(Json::as_array)
        .map_or(&[], Vec::as_slice)
}

fn text<'a>(json: &'a Json, path: &str) -> &'a str {
    json.pointer(path).and_then(Json::as_str).unwrap_or_default()
}

/// The queries of panels, and those that fill the variables.
fn queries(dashboard: &Json) -> Vec<Query> {
    let mut queries = Vec::new();
    for panel in list(dashboard, "/panels") {
        for target in list(panel, "/targets") {
            queries.push(Query {
                panel: text(panel, "/title").to_owned(),
                expression: in_place_of_variables(text(target, "/expr")),
                legend: text(target, "/legendFormat").to_owned(),
            });
        }
    }
    for variable in list(dashboard, "/templating/list") {
        let query = text(variable, "/query/query").strip_prefix("label_values(");
        let Some((expression, label)) = query.and_then(|query| query.strip_suffix(')')?.rsplit_once(", "))
        else {
            continue;
        };
        queries.push(Query {
            panel: format!("variable {}", text(variable, "/name")),
            expression: in_place_of_variables(expression),
            legend: format!("{{{{{label}}}}}"),
        });
    }
    queries
}

/// What Grafana makes of an expression.
fn in_place_of_variables(expression: &str) -> String {
    let variables = [
        ("$__rate_interval", "1m"),
        ("$__range", "1h"),
        ("$instance", "db1:7070"),
        ("$slot", ".*"),
    ];
    let replaced = variables
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        });
    assert!(!replaced.contains('$'), "an unknown variable: {replaced}");
    replaced
}

/// What Prometheus would make of a page.
fn page(text: &str) -> Page {
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("parse the page");
    let mut page = Page::new();
    for sample in scrape.samples {
        let mut labels: BTreeSet<String> = sample.labels.keys().cloned().collect();
        let name = match sample.value {
            Value::Histogram(_) => {
                labels.insert("le".to_owned());
                format!("{}_bucket", sample.metric)
            }
            _ => sample.metric,
        };
        page.entry(name).or_default().extend(labels);
    }
    page
}

/// The name that a series has in the list of metrics: without the suffix of a histogram's parts.
fn family(page: &Page, series: &str) -> String {
    let parts = ["_bucket", "_sum", "_count"];
    let stem = parts.iter().find_map(|part| series.strip_suffix(part));
    match stem.filter(|stem| page.contains_key(&format!("{stem}_bucket"))) {
        Some(stem) => stem.to_owned(),
        None => series.to_owned(),
    }
}

/// A receiver with a slot that has seen all there is to see: commits, and the end of a segment.
struct Observed {
    _server: Server,
    _archive: Archive,
    _receiver: Process,
    http: Http,
}

impl Observed {
    fn start() -> Observed {
        // Without a limit the slot is safe for ever, and no metric says for how long.
        let server = ServerOptions::default()
            .config("max_slot_wal_keep_size = 1GB")
            .start();
        let archive = Archive::new();
        server.sql("SELECT pg_create_physical_replication_slot('archive')");
        let baseline = archive.file(".baseline");
        let mut times = Times::new();
        times.record(Duration::from_millis(5));
        write_baseline(
            &baseline,
            times.histogram(),
            SystemTime::now(),
            Duration::from_secs(1),
            "a test",
        )
        .expect("write a baseline");
        let baseline = format!("--baseline={}", baseline.display());
        let arguments = [
            "--synchronous",
            "--slot=archive",
            "--slot-watch=same",
            "--listen=127.0.0.1:0",
            &baseline,
        ];
        let receiver = walring(&server, &archive, &arguments);
        let http = Http::of(&receiver);
        receiver::wait_for_streaming(&server);
        server.sql("CREATE TABLE t (x int)");
        server.switch_wal();
        server.sql("INSERT INTO t VALUES (1)");
        server.wait_flushed(server.flush_lsn());
        Observed {
            http,
            _server: server,
            _archive: archive,
            _receiver: receiver,
        }
    }

    fn page(&self) -> Page {
        let segments = "walring_segments_completed_total";
        self.http.wait_metric(segments, |count| count > 0.0);
        self.http
            .wait_metric("walring_slot_safe_wal_size_bytes", |bytes| bytes > 0.0);
        page(&self.http.get("/metrics").body)
    }
}

#[test]
fn every_query_of_the_dashboard_finds_what_a_receiver_tells() {
    let receiver = Observed::start();
    let page = receiver.page();
    let mut shown = BTreeSet::new();
    let mut wrong = Vec::new();
    for query in queries(&dashboard()) {
        let named = Named::by(&query.expression).unwrap_or_else(|error| panic!("{error}: {query:#?}"));
        assert!(!named.selectors.is_empty(), "{query:#?}");
        let missing = named.missing(&page, &query.legend);
        wrong.extend(missing.into_iter().map(|what| format!("{}: {what}", query.panel)));
        shown.extend(named.selectors.iter().map(|(name, _)| family(&page, name)));
    }
    assert!(wrong.is_empty(), "the page does not have {wrong:#?}");

    let told: BTreeSet<String> = page.keys().map(|series| family(&page, series)).collect();
    let hidden: Vec<_> = told.difference(&shown).collect();
    assert_eq!(
        hidden, FOR_PROGRAMS,
        "metrics that no panel shows, or that are listed here and shown"
    );
}

#[test]
fn a_query_for_what_is_not_told_would_be_found() {
    let page = page(
        "# TYPE a histogram\na_bucket{method=\"sync\",le=\"1\"} 0\na_bucket{method=\"sync\",le=\"+Inf\"} 0\n\
         a_sum{method=\"sync\"} 0\na_count{method=\"sync\"} 0\n# TYPE b_total counter\nb_total 1\n",
    );
    let missing = |expression: &str, legend: &str| {
        Named::by(expression)
            .expect("an expression")
            .missing(&page, legend)
            .join(", ")
    };
    let quantile =
        "histogram_quantile(0.5, sum by (le, method) (rate(a_bucket{method=\"x\", job=\"y\"}[1m])))";
    assert_eq!(missing(quantile, "{{method}}"), "");
    assert_eq!(missing("a_sum / a_count", "{{instance}}"), "");
    assert_eq!(missing("rate(c_total[1m])", ""), "metric c_total");
    assert_eq!(missing("b_total{method=\"x\"}", ""), "label method of b_total");
    assert_eq!(missing("sum by (mode) (a_sum)", ""), "label mode");
    assert_eq!(missing("b_total * on (mode) b_total", ""), "label mode");
    assert_eq!(
        missing("sum by (instance) (a_sum)", "{{method}}"),
        "label method in the legend"
    );
    assert!(Named::by("rate(b_total[1m]").is_err());
    assert_eq!(
        (family(&page, "a_count"), family(&page, "b_total")),
        ("a".into(), "b_total".into())
    );
}

#[test]
fn the_dashboard_can_be_imported_and_its_panels_do_not_overlap() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        let title = text(panel, "/title");
        let number = |path: &str| {
            let number = panel.pointer(path).and_then(Json::as_u64);
            number.unwrap_or_else(|| panic!("{title} has no {path}"))
        };
        assert!(ids.insert(number("/id")), "{title}: its id is taken");
        let (x, width) = (number("/gridPos/x"), number("/gridPos/w"));
        assert!(x + width <= 24, "{title} is too wide");
        for y in number("/gridPos/y")..number("/gridPos/y") + number("/gridPos/h") {
            let free = (x..x + width).all(|x| taken.insert((x, y)));
            assert!(free, "{title} overlaps another panel");
        }
        let is_row = text(panel, "/type") == "row";
        assert!(
            is_row || !text(panel, "/description").is_empty(),
            "{title} is not explained"
        );
        let sources = list(panel, "/targets")
            .iter()
            .chain(Some(panel).filter(|_| !is_row));
        for source in sources {
            assert_eq!(text(source, "/datasource/uid"), "${datasource}", "{title}");
        }
    }
    let variables: Vec<_> = list(&dashboard, "/templating/list")
        .iter()
        .map(|variable| text(variable, "/name"))
        .collect();
    assert_eq!(variables, ["datasource", "slot", "instance"]);
    assert_eq!(dashboard["id"], Json::Null);
}

#[test]
fn top_shows_a_real_receiver() {
    let receiver = Observed::start();
    receiver.page();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walring"));
    command.args(["top", "--once", &receiver.http.address().to_string()]);
    let exit = Process::spawn(command).finish();
    exit.assert_success();
    let expected = "streaming, healthy, slot archive, timeline 1, synchronous, verify records\n";
    assert!(exit.stdout.contains(expected), "{exit:#?}");
    assert!(exit.stdout.contains("\nreceived   0/"), "{exit:#?}");
}
