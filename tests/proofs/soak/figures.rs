//! The measurements of a soak: a table, a picture of it, and a summary.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lab::{Attempt, Outcome, write};

/// The process at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// `RssAnon`, in MiB.
    pub anonymous: f64,
    /// `VmRSS`, in MiB.
    pub resident: f64,
    /// Open files and sockets.
    pub descriptors: f64,
    /// Its threads.
    pub threads: f64,
    /// Items in the spool.
    pub queued: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "anonymous memory {:.1} MiB, resident {:.1} MiB, {} descriptors, {} threads, {} items queued",
            self.anonymous, self.resident, self.descriptors, self.threads, self.queued
        )
    }
}

/// All that was measured, in a directory: `samples.csv` as it grows, `summary.txt` and `soak.svg`
/// at the end.
pub(crate) struct Figures {
    directory: PathBuf,
    table: File,
    summary: String,
    pub samples: Vec<Sample>,
}

impl Figures {
    pub(crate) fn create(directory: &Path) -> Figures {
        let made = std::fs::create_dir_all(directory)
            .and_then(|()| File::create(directory.join("samples.csv")));
        let mut table = made.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        writeln!(
            table,
            "seconds,anonymous_mib,resident_mib,descriptors,threads,queued"
        )
        .expect("it can be written");
        Figures {
            directory: directory.to_owned(),
            table,
            summary: String::new(),
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        let Sample {
            at,
            anonymous,
            resident,
            descriptors,
            threads,
            queued,
        } = sample;
        let at = at.as_secs_f64();
        writeln!(
            self.table,
            "{at:.1},{anonymous:.2},{resident:.2},{descriptors},{threads},{queued}"
        )
        .expect("it can be written");
        self.samples.push(sample);
    }

    /// Prints a line of the summary, and keeps it.
    pub(crate) fn say(&mut self, line: &str) {
        println!("{line}");
        self.summary += line;
        self.summary.push('\n');
        write(&self.directory.join("summary.txt"), &self.summary);
    }

    /// Draws everything over time, with the times of transactions through Copyist and beside it.
    pub(crate) fn plot(&self, tries: &[Attempt], beside: &[Attempt]) {
        type Value = fn(&Sample) -> f64;
        let series = |name: &'static str, value: Value| {
            let points = self
                .samples
                .iter()
                .map(|sample| (sample.at.as_secs_f64(), value(sample)));
            (name, points.collect::<Vec<_>>())
        };
        let end = self
            .samples
            .last()
            .map_or(1.0, |sample| sample.at.as_secs_f64());
        let times = |name, tries, part| (name, over_time(tries, part, end));
        let panels = [
            (
                "memory (MiB)",
                vec![
                    series("anonymous", |sample| sample.anonymous),
                    series("resident", |sample| sample.resident),
                ],
            ),
            (
                "descriptors and threads",
                vec![
                    series("descriptors", |sample| sample.descriptors),
                    series("threads", |sample| sample.threads),
                ],
            ),
            (
                "items queued",
                vec![series("items", |sample| sample.queued)],
            ),
            (
                "SMTP transaction (ms)",
                vec![
                    times("p50 with Copyist", tries, 0.5),
                    times("p50 without", beside, 0.5),
                    times("p99 with Copyist", tries, 0.99),
                    times("p99 without", beside, 0.99),
                ],
            ),
        ];
        write(&self.directory.join("soak.svg"), picture(&panels, end));
    }
}

/// A percentile of the transactions' times (in milliseconds) in each of a hundred parts of the run.
fn over_time(tries: &[Attempt], part: f64, end: f64) -> Vec<(f64, f64)> {
    let mut parts = vec![Vec::new(); 100];
    for one in tries.iter().filter(|one| one.outcome == Outcome::Accepted) {
        let n = (one.at.as_secs_f64() / end * 100.0) as usize;
        parts[n.min(99)].push(one.took);
    }
    let points = parts
        .iter_mut()
        .enumerate()
        .filter(|(_, took)| !took.is_empty());
    points
        .map(|(n, took)| {
            took.sort();
            (
                (n as f64 + 0.5) / 100.0 * end,
                percentile(took, part).as_secs_f64() * 1000.0,
            )
        })
        .collect()
}

/// The value that this part of all does not exceed; they are sorted.
pub(crate) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let n = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(n.saturating_sub(1)).copied().unwrap_or_default()
}

/// The growth of a value by the hour, and how far off it may be: the slope of the line that fits
/// best (least squares) through the medians of five minutes each, and twice its standard error. One
/// look is not far from the one before, so the looks themselves would make it appear better known
/// than it is.
pub(crate) fn slope(samples: &[&Sample], value: impl Fn(&Sample) -> f64) -> (f64, f64) {
    let points: Vec<(f64, f64)> = samples
        .chunk_by(|one, next| one.at.as_secs() / STRETCH == next.at.as_secs() / STRETCH)
        .map(|stretch| {
            let mut values: Vec<f64> = stretch.iter().map(|sample| value(sample)).collect();
            values.sort_by(f64::total_cmp);
            let middle = stretch[stretch.len() / 2].at.as_secs_f64() / 3600.0;
            (middle, values[values.len() / 2])
        })
        .collect();
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = (points.iter())
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if points.len() < 3 {
        return (0.0, f64::INFINITY);
    }
    let slope = above / below;
    let left: f64 = (points.iter())
        .map(|point| (point.1 - y - slope * (point.0 - x)).powi(2))
        .sum();
    (slope, 2.0 * (left / (count - 2.0) / below).sqrt())
}

/// Seconds of which the median is taken.
const STRETCH: u64 = 300;
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 70.0;
const COLORS: [&str; 4] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd"];

type Series = (&'static str, Vec<(f64, f64)>);

/// Panels below each other over the same seconds, each from zero to its largest value.
fn picture(panels: &[(&str, Vec<Series>)], end: f64) -> String {
    let height = (HEIGHT + 50.0) * panels.len() as f64 + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + LEFT + 20.0
    );
    for (n, (title, series)) in panels.iter().enumerate() {
        let top = 30.0 + (HEIGHT + 50.0) * n as f64;
        let values = series
            .iter()
            .flat_map(|(_, points)| points.iter().map(|point| point.1));
        let most = values.fold(1.0, f64::max) * 1.05;
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
            top - 8.0
        );
        for (part, label) in [(0.0, most), (0.5, most / 2.0), (1.0, 0.0)] {
            let y = top + HEIGHT * part;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label:.0}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                y + 4.0
            );
        }
        for (part, label) in [(0.0, 0.0), (0.5, end / 2.0), (1.0, end)] {
            let (x, y) = (LEFT + WIDTH * part, top + HEIGHT + 16.0);
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{label:.0} s</text>"
            );
        }
        for (n, (name, points)) in series.iter().enumerate() {
            let color = COLORS[n % COLORS.len()];
            let drawn = points.iter().fold(String::new(), |mut drawn, (x, y)| {
                let _ = write!(
                    drawn,
                    "{:.1},{:.1} ",
                    LEFT + WIDTH * x / end,
                    top + HEIGHT * (1.0 - y / most)
                );
                drawn
            });
            let _ = writeln!(
                svg,
                "<polyline points=\"{drawn}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.2\"/>\
                 <text x=\"{}\" y=\"{}\" fill=\"{color}\">{name}</text>",
                LEFT + 220.0 + 150.0 * n as f64,
                top - 8.0
            );
        }
    }
    svg + "</svg>\n"
}
