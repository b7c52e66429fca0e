//! The service's own numbers, read back from what is given to Prometheus: one set of numbers for
//! both.

/// What the metrics say at one moment.
#[derive(Debug, Default)]
pub(super) struct Reading(Vec<Line>);

/// One number.
#[derive(Debug)]
pub(super) struct Line {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Line {
    /// The value of a label; empty where it has none of this name.
    pub(super) fn label(&self, name: &str) -> &str {
        let mut labels = self.labels.iter();
        labels
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// The number.
    pub(super) fn value(&self) -> f64 {
        self.value
    }

    /// The number, of something that is counted.
    pub(super) fn count(&self) -> u64 {
        self.value.max(0.0) as u64
    }
}

impl Reading {
    /// Reads the text format. What it does not know is left out.
    pub(super) fn parse(text: &str) -> Reading {
        Reading(text.lines().filter_map(line).collect())
    }

    /// All numbers of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Line> {
        self.0.iter().filter(move |line| line.name == name)
    }

    /// The one number of this name.
    pub(super) fn one(&self, name: &str) -> Option<f64> {
        self.all(name).next().map(Line::value)
    }
}

/// `name{label="value",…} number` or `name number`.
fn line(text: &str) -> Option<Line> {
    if text.starts_with('#') {
        return None;
    }
    let (series, value) = text.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some(Line {
        name: name.to_owned(),
        labels: self::labels(labels),
        value: value.parse().ok()?,
    })
}

fn labels(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c)) => value.push(c),
                    None => break rest.len(),
                },
                Some((at, '"')) => break at + 1,
                Some((_, c)) => value.push(c),
                None => break rest.len(),
            }
        };
        found.push((name.trim_start_matches(',').to_owned(), value));
        text = &rest[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_reads_is_read_back() {
        let reading = Reading::parse(
            "# HELP x y\n# TYPE a counter\na{why=\"x,y\",of=\"a \\\"b\\\\\"} 3\na{why=\"z\"} 4\n\nb 1.5\nbroken\n",
        );
        let first = reading.all("a").next().expect("read");
        assert_eq!((first.label("why"), first.label("of")), ("x,y", "a \"b\\"));
        let counts: Vec<u64> = reading.all("a").map(Line::count).collect();
        assert_eq!(counts, [3, 4]);
        assert_eq!(reading.one("b"), Some(1.5));
        assert_eq!(reading.one("c"), None);
    }
}
