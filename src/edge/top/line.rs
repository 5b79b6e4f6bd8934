//! Lines of text with a meaning, which a terminal shows as colours.

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A value.
    Plain,
    /// What to look at first.
    Strong,
    /// The name of a value.
    Name,
    /// As it should be.
    Good,
    /// What needs somebody.
    Bad,
}

impl Style {
    /// The parameters of the escape sequence that turns it on.
    fn parameters(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Strong => Some("1"),
            Style::Name => Some("2"),
            Style::Good => Some("32"),
            Style::Bad => Some("1;31"),
        }
    }
}

/// One line, without its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    pieces: Vec<(Style, String)>,
}

impl Line {
    /// A line of one piece.
    pub fn of(style: Style, text: impl AsRef<str>) -> Line {
        Line::default().with(style, text)
    }

    /// The same line and one more piece. Much of it came over the network: what could steer a terminal is shown as `?`.
    pub fn with(mut self, style: Style, text: impl AsRef<str>) -> Line {
        let text = text
            .as_ref()
            .chars()
            .map(|c| if c.is_control() { '?' } else { c });
        self.pieces.push((style, text.collect()));
        self
    }

    /// The same line, filled up with blanks to a width.
    pub fn padded(self, width: usize) -> Line {
        let missing = width.saturating_sub(self.width());
        self.with(Style::Plain, " ".repeat(missing))
    }

    /// Its characters. Each counts as one column; a terminal where one is wider cuts the line off itself.
    pub fn width(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// The text alone, without blanks at its end.
    pub fn plain(&self) -> String {
        let text: String = self.pieces.iter().map(|(_, text)| text.as_str()).collect();
        text.trim_end().to_owned()
    }

    /// The first `columns` characters with escape sequences around what has a colour.
    pub fn coloured(&self, columns: usize) -> String {
        let mut left = columns;
        let mut shown = String::new();
        for (style, text) in &self.pieces {
            let cut: String = text.chars().take(left).collect();
            left -= cut.chars().count();
            match style.parameters() {
                Some(parameters) if !cut.is_empty() => shown += &format!("\x1b[{parameters}m{cut}\x1b[0m"),
                _ => shown += &cut,
            }
        }
        shown
    }

    /// The first `columns` characters.
    pub fn cut(&self, columns: usize) -> String {
        self.plain().chars().take(columns).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_what_is_seen_of_it() {
        let line = Line::of(Style::Bad, "abc").with(Style::Plain, "déf");
        assert_eq!(line.coloured(5), "\x1b[1;31mabc\x1b[0mdé");
        assert_eq!(line.coloured(2), "\x1b[1;31mab\x1b[0m");
        assert_eq!(line.cut(4), "abcd");
        assert_eq!(line.coloured(0), "");
    }

    #[test]
    fn nothing_that_came_over_the_network_steers_the_terminal() {
        let line = Line::of(Style::Plain, "a\x1b[2Jb\n\u{9b}c");
        assert_eq!(line.coloured(80), "a?[2Jb??c");
    }

    #[test]
    fn padding_is_not_printed() {
        let line = Line::of(Style::Plain, "a").padded(5);
        assert_eq!((line.width(), line.plain().as_str()), (5, "a"));
    }
}
