//! The charts: SVG inside the page, drawn in units of about one CSS pixel.
//!
//! Every chart is as wide as a phone, so that its text is never scaled to nothing; wide screens show several
//! beside each other. Receivers differ by colour, dashes and marker, and are named where there is room.

use maud::{Markup, html};

use super::scale::Axis;
use super::words;

/// How many looks there are for receivers.
pub const LOOKS: usize = 8;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 40.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 34.0;
/// Right of the lines, for their names.
const NAMES: f64 = 102.0;
/// Between the base lines of two names.
const NAME_STEP: f64 = 13.0;

/// What a chart is about, and its axes.
pub struct Frame<'a> {
    /// Unlike any other in the page.
    pub id: String,
    /// What the chart shows, for those who cannot see it.
    pub title: String,
    /// What it says, for those who cannot see it.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// How the horizontal axis' values are written.
    pub x_text: fn(f64) -> String,
    /// What the horizontal axis means.
    pub x_label: &'a str,
    /// The vertical axis.
    pub y: Axis,
    /// What the vertical axis means.
    pub y_label: &'a str,
    /// Vertical lines here.
    pub marks: &'a [f64],
    /// Whether zero is drawn stronger than the other lines.
    pub zero: bool,
}

/// One receiver's line.
#[derive(Default)]
pub struct Line {
    /// Which colour, dashes and marker; below [`LOOKS`].
    pub look: usize,
    /// The name beside its end; empty for none.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Points with a marker.
    pub markers: Vec<(f64, f64)>,
    /// Points without a line.
    pub dots: Vec<(f64, f64)>,
    /// A band behind the line: place, lower edge, upper edge.
    pub band: Vec<(f64, f64, f64)>,
}

/// The part of a chart that lines are drawn in.
struct Plot<'a> {
    frame: &'a Frame<'a>,
    right: f64,
}

impl Plot<'_> {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.frame.x.place(value) * (self.right - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.frame.y.place(value) * (HEIGHT - BOTTOM - TOP)
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points {
            path.push_str(if path.is_empty() { "M" } else { "L" });
            path.push_str(&format!("{:.1} {:.1}", self.x(x), self.y(y)));
        }
        path
    }
}

/// A chart of lines over two axes.
pub fn lines(frame: &Frame, lines: &[Line]) -> Markup {
    let named = lines.iter().any(|line| !line.name.is_empty());
    let plot = Plot {
        frame,
        right: WIDTH - if named { NAMES } else { 12.0 },
    };
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
            aria-labelledby=(format!("{0}-t {0}-d", frame.id)) {
            title id=(format!("{}-t", frame.id)) { (frame.title) }
            desc id=(format!("{}-d", frame.id)) { (frame.description) }
            (grid(&plot))
            @for line in lines.iter().filter(|line| !line.band.is_empty()) { (band(&plot, line)) }
            @for line in lines { (curve(&plot, line)) }
            @if named { (names(&plot, lines)) }
        }
    }
}

/// The axes, their values, and the marks.
fn grid(plot: &Plot) -> Markup {
    let frame = plot.frame;
    let bottom = HEIGHT - BOTTOM;
    html! {
        @for tick in frame.y.ticks() {
            line class=(if frame.zero && tick == 0.0 { "axis" } else { "grid" })
                x1=(LEFT) x2=(plot.right) y1=(at(plot.y(tick))) y2=(at(plot.y(tick))) {}
            text.tick x=(LEFT - 5.0) y=(at(plot.y(tick) + 4.0)) text-anchor="end" { (words::short(tick)) }
        }
        @for tick in frame.x.ticks() {
            line.grid x1=(at(plot.x(tick))) x2=(at(plot.x(tick))) y1=(TOP) y2=(bottom) {}
            text.tick x=(at(plot.x(tick))) y=(bottom + 15.0) text-anchor="middle" { ((frame.x_text)(tick)) }
        }
        line.axis x1=(LEFT) x2=(plot.right) y1=(bottom) y2=(bottom) {}
        @for mark in frame.marks {
            line.mark x1=(at(plot.x(*mark))) x2=(at(plot.x(*mark))) y1=(TOP) y2=(bottom) {}
        }
        text.label x="2" y="11" { (frame.y_label) }
        text.label x=(at((LEFT + plot.right) / 2.0)) y=(HEIGHT - 4.0) text-anchor="middle" { (frame.x_label) }
    }
}

fn band(plot: &Plot, line: &Line) -> Markup {
    let upper = line.band.iter().map(|(x, _, high)| (*x, *high));
    let lower = line.band.iter().rev().map(|(x, low, _)| (*x, *low));
    html! { path class=(format!("band r{}", line.look)) d=(plot.path(upper.chain(lower)) + "Z") {} }
}

fn curve(plot: &Plot, line: &Line) -> Markup {
    html! {
        @if !line.points.is_empty() {
            path class=(format!("line r{}", line.look)) d=(plot.path(line.points.iter().copied())) {}
        }
        @for (x, y) in &line.dots {
            circle class=(format!("dot r{}", line.look)) cx=(at(plot.x(*x))) cy=(at(plot.y(*y))) r="1.3" {}
        }
        @for (x, y) in &line.markers { (marker(line.look, plot.x(*x), plot.y(*y))) }
    }
}

/// The marker of a look.
pub fn marker(look: usize, x: f64, y: f64) -> Markup {
    let path = match look % LOOKS {
        0 => "M-3 -3H3V3H-3Z",
        1 => "M-3.5 0A3.5 3.5 0 1 0 3.5 0A3.5 3.5 0 1 0 -3.5 0Z",
        2 => "M0 -4.5L4.5 0L0 4.5L-4.5 0Z",
        3 => "M0 -4L4 3.5H-4Z",
        4 => "M0 4L4 -3.5H-4Z",
        5 => "M-3 -3L3 3M-3 3L3 -3",
        6 => "M-4 0H4M0 -4V4",
        _ => "M-4 -2H4M-4 2H4",
    };
    html! {
        path class=(format!("marker r{look}")) transform=(format!("translate({x:.1} {y:.1})")) d=(path) {}
    }
}

/// The lines' names, right of their ends, moved apart where they would overlap.
fn names(plot: &Plot, lines: &[Line]) -> Markup {
    let mut ends: Vec<(f64, &Line)> = lines
        .iter()
        .filter(|line| !line.name.is_empty())
        .filter_map(|line| Some((plot.y(line.points.last()?.1), line)))
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let places = apart(&ends.iter().map(|end| end.0).collect::<Vec<_>>());
    html! {
        @for ((end, line), place) in ends.iter().zip(places) {
            @let from = line.points.last().map_or(plot.right, |last| plot.x(last.0));
            path class=(format!("leader r{}", line.look))
                d=(format!("M{:.1} {:.1}L{:.1} {:.1}", from + 2.0, end, plot.right + 7.0, place)) {}
            text class=(format!("name r{}", line.look)) x=(plot.right + 10.0) y=(at(place + 4.0)) {
                (shortened(&line.name, 14))
            }
        }
    }
}

/// Places at least [`NAME_STEP`] apart, in order, inside the chart where they fit, near the given ones.
fn apart(wanted: &[f64]) -> Vec<f64> {
    let mut places = wanted.to_vec();
    for index in 1..places.len() {
        places[index] = places[index].max(places[index - 1] + NAME_STEP);
    }
    let mut ceiling = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(ceiling);
        ceiling = *place - NAME_STEP;
    }
    places
}

/// At most `most` characters.
fn shortened(name: &str, most: usize) -> String {
    match name.chars().count() {
        length if length <= most => name.to_owned(),
        _ => name.chars().take(most - 1).chain(['…']).collect(),
    }
}

fn at(place: f64) -> String {
    format!("{place:.1}")
}

/// One bar: a median, with the smallest and largest round as a whisker.
pub struct Bar {
    /// Which look; below [`LOOKS`].
    pub look: usize,
    /// Whose.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The smallest and the largest.
    pub range: (f64, f64),
    /// What stands behind it.
    pub text: String,
}

/// Bars below each other, from zero.
pub fn bars(id: &str, title: &str, description: &str, bars: &[Bar]) -> Markup {
    const STEP: f64 = 26.0;
    const NAME: f64 = 100.0;
    const VALUE: f64 = 84.0;
    let height = STEP * bars.len() as f64 + 4.0;
    let largest = bars
        .iter()
        .map(|bar| bar.range.1.max(bar.value))
        .fold(0.0, f64::max);
    let axis = Axis::exactly(0.0, largest);
    let x = |value: f64| NAME + axis.place(value) * (WIDTH - NAME - VALUE);
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(format!("{id}-t {id}-d")) {
            title id=(format!("{id}-t")) { (title) }
            desc id=(format!("{id}-d")) { (description) }
            @for (index, bar) in bars.iter().enumerate() {
                @let middle = STEP * index as f64 + STEP / 2.0 + 2.0;
                text.label x=(NAME - 8.0) y=(middle + 4.0) text-anchor="end" { (shortened(&bar.name, 15)) }
                rect class=(format!("bar r{}", bar.look)) x=(NAME) y=(middle - 8.0) height="16" rx="1.5"
                    width=(at((x(bar.value) - NAME).max(0.5))) {}
                path.whisker d=(format!("M{0:.1} {2}H{1:.1}M{0:.1} {3}V{4}M{1:.1} {3}V{4}",
                    x(bar.range.0), x(bar.range.1), middle, middle - 3.0, middle + 3.0)) {}
                text.value x=(at(x(bar.value.max(bar.range.1)) + 6.0)) y=(middle + 4.0) { (bar.text) }
            }
            line.axis x1=(NAME) x2=(NAME) y1="2" y2=(height - 2.0) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_overlap_and_stay_in_the_chart() {
        let places = apart(&[100.0, 101.0, 102.0, 215.0, 216.0]);
        assert!(
            places
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= NAME_STEP - 1e-9),
            "{places:?}"
        );
        assert!(places[4] <= HEIGHT - BOTTOM && places[0] >= TOP, "{places:?}");
    }

    #[test]
    fn values_of_an_axis_are_short() {
        let texts = [0.0, 0.05, 1.0, 2000.0, 50_000.0, -5.0].map(words::short);
        assert_eq!(texts, ["0", "0.05", "1", "2000", "50k", "−5"]);
    }
}
