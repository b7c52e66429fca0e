//! The cost of hostile mail: each shape at three sizes, and how the time grows.
//!
//! `cargo bench --bench text_hostile` prints a table and fails where twice the size takes more than
//! two and a half times as long, or where memory grows beyond some copies of the message. With
//! `--json` the same as JSON.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copyist::text::{Disclaimer, SignedPolicy, Text, Texts, apply, edit};

/// Twice the size may take this many times as long.
const MOST: f64 = 2.5;
/// Times below this are measured too badly to compare.
const COMPARED: Duration = Duration::from_millis(4);
/// Tries of each size; the fastest counts.
const TRIES: usize = 5;

type Make = fn(usize) -> Vec<u8>;

/// Shapes of messages, each with its smallest size in units of its own.
const MESSAGES: [(&str, usize, Make); 22] = [
    ("multiparts in multiparts, each unclosed", 20_000, |n| {
        let level = |i| format!("Content-Type: multipart/mixed; boundary=b{i}\r\n\r\n--b{i}\r\n");
        (0..n).map(level).collect::<String>().into_bytes()
    }),
    ("messages in messages", 40_000, |n| {
        "Content-Type: message/rfc822\r\n\r\n"
            .repeat(n)
            .into_bytes()
    }),
    ("parts beside each other", 50_000, |n| {
        let head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        let part = "--b\r\nContent-Type: image/png\r\n\r\nx\r\n";
        format!("{head}{}--b--\r\n", part.repeat(n)).into_bytes()
    }),
    ("header fields", 50_000, |n| {
        format!("{}\r\nx\r\n", "X-Field: value\r\n".repeat(n)).into_bytes()
    }),
    ("Content-Type fields", 50_000, |n| {
        format!("{}\r\nx\r\n", "Content-Type: text/plain\r\n".repeat(n)).into_bytes()
    }),
    ("parameters of one field", 100_000, |n| {
        format!("Content-Type: text/plain{}\r\n\r\nx\r\n", "; a=b".repeat(n)).into_bytes()
    }),
    ("comments in one field", 100_000, |n| {
        format!("Content-Type: text/plain {}\r\n\r\nx\r\n", "(".repeat(n)).into_bytes()
    }),
    ("continuations of a charset", 50_000, |n| {
        let part = |i| format!(";\r\n charset*{i}=u");
        let all: String = (0..n).map(part).collect();
        format!("Content-Type: text/plain{all}\r\n\r\nx\r\n").into_bytes()
    }),
    ("one line", 25_000_000, |n| {
        [b"A: b\r\n\r\n", &vec![b'x'; n][..]].concat()
    }),
    ("lines that begin with dashes", 2_000_000, |n| {
        let head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n";
        format!("{head}{}", "--c\r\n".repeat(n)).into_bytes()
    }),
    ("quoted-printable, all of it escaped", 3_000_000, |n| {
        let head = "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n";
        format!("{head}{}", "=E9=\r\n".repeat(n)).into_bytes()
    }),
    ("quoted-printable, equals signs", 10_000_000, |n| {
        let head = "Content-Transfer-Encoding: quoted-printable\r\n\r\n";
        format!("{head}{}", "=".repeat(n)).into_bytes()
    }),
    ("base64 in padded pieces", 3_000_000, |n| {
        format!(
            "Content-Transfer-Encoding: base64\r\n\r\n{}",
            "YQ==".repeat(n)
        )
        .into_bytes()
    }),
    ("HTML, elements never closed", 200_000, |n| {
        html("<div><b><a href=x>", n)
    }),
    ("HTML, bodies", 200_000, |n| html("<body>x</body>", n)),
    ("HTML, comments opened", 1_000_000, |n| html("<!--", n)),
    ("HTML, quotes opened", 1_000_000, |n| {
        html("<a title='\"", n)
    }),
    ("HTML, textareas and styles opened", 300_000, |n| {
        html("<textarea><style>", n)
    }),
    ("HTML, one tag", 5_000_000, |n| html("a", n)),
    ("ISO-2022-JP, shifts", 2_000_000, |n| {
        let head = "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n";
        format!("{head}{}", "\u{1b}$BF|\u{1b}(B".repeat(n)).into_bytes()
    }),
    ("UTF-7, shifts", 1_000_000, |n| {
        format!(
            "Content-Type: text/plain; charset=utf-7\r\n\r\n{}",
            "+AOk-".repeat(n)
        )
        .into_bytes()
    }),
    ("boundaries of ours", 400_000, |n| {
        let all: String = (0..n)
            .map(|i| format!("=_copyist_text_{i:08x}\r\n"))
            .collect();
        format!("Content-Type: image/png\r\n\r\n{all}").into_bytes()
    }),
];

/// Shapes of RTF; at most a megabyte of it is read, so they end there.
const RTF: [(&str, usize, Make); 5] = [
    ("RTF, groups", 250_000, |n| "{".repeat(n).into_bytes()),
    ("RTF, binary", 30_000, |n| {
        "\\bin3abc".repeat(n).into_bytes()
    }),
    ("RTF, paragraphs", 24_000, |n| {
        "\\par{\\b x}".repeat(n).into_bytes()
    }),
    ("RTF, characters", 17_000, |n| {
        "\\u8364?\\'e9".repeat(n).into_bytes()
    }),
    ("RTF, fonts", 9_000, |n| {
        let font = |i| format!("{{\\f{i}\\fcharset0 A;}}");
        let fonts: String = (0..n).map(font).collect();
        format!("{{\\rtf1{{\\fonttbl{fonts}}}x}}").into_bytes()
    }),
];

fn html(piece: &str, n: usize) -> Vec<u8> {
    let start = if piece == "a" { "<" } else { "" };
    format!("Content-Type: text/html\r\n\r\n{start}{}", piece.repeat(n)).into_bytes()
}

fn texts() -> Texts {
    let text = |words: &str| -> Option<Arc<Text>> {
        let wording = Disclaimer::new(Some(words), None, false).expect("sound");
        wording.for_sender(&[]).expect("fixed")
    };
    Texts {
        prepend: text("Von außen: Vorsicht"),
        append: text("This mail is confidential. 5 €"),
    }
}

/// The fastest of some runs.
fn fastest(mut run: impl FnMut()) -> Duration {
    let once = |_| {
        let started = Instant::now();
        run();
        started.elapsed()
    };
    (0..TRIES).map(once).min().unwrap_or_default()
}

/// The most memory this process ever had, in bytes (`VmHWM`).
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}

struct Row {
    shape: &'static str,
    bytes: usize,
    times: [Duration; 3],
}

impl Row {
    /// By how much the time grows with a doubling, over the two of them: single ones also show
    /// where memory is handed out in another way.
    fn growth(&self) -> f64 {
        let [first, _, last] = self.times;
        match last < COMPARED {
            true => 1.0,
            false => (last.as_secs_f64() / first.max(COMPARED / 4).as_secs_f64()).sqrt(),
        }
    }
}

fn measure(shape: &'static str, size: usize, make: Make, run: &dyn Fn(&[u8])) -> Row {
    let mut bytes = 0;
    let times = [1, 2, 4].map(|factor| {
        let input = make(size * factor);
        bytes = input.len();
        fastest(|| run(&input))
    });
    Row {
        shape,
        bytes,
        times,
    }
}

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    let texts = texts();
    let put_in = |message: &[u8]| {
        if let Ok(edited) = edit(message, &texts, SignedPolicy::Wrap) {
            std::hint::black_box(apply(message, &edited.splices));
        }
    };
    let read_rtf = |rtf: &[u8]| {
        std::hint::black_box(Disclaimer::from_rtf(rtf, false).is_ok());
    };
    let messages = MESSAGES
        .iter()
        .map(|&(shape, size, make)| measure(shape, size, make, &put_in));
    let rtf = RTF
        .iter()
        .map(|&(shape, size, make)| measure(shape, size, make, &read_rtf));
    let rows: Vec<Row> = messages.chain(rtf).collect();
    let bad: Vec<&Row> = rows.iter().filter(|row| row.growth() > MOST).collect();
    let (largest, peak) = (rows.iter().map(|row| row.bytes).max().unwrap_or(0), peak());
    if json {
        let row = |row: &Row| {
            serde_json::json!({
                "shape": row.shape, "bytes": row.bytes, "ms": row.times.map(|t| t.as_secs_f64() * 1000.0),
                "growth": row.growth(),
            })
        };
        let all: Vec<_> = rows.iter().map(row).collect();
        println!("{}", serde_json::json!({ "rows": all, "peak_bytes": peak }));
    } else {
        println!("| shape | MB | ms for a quarter, half, all of it | ms a MB | growth |");
        println!("|---|--:|--:|--:|--:|");
        for row in &rows {
            let [a, b, c] = row.times.map(|time| time.as_secs_f64() * 1000.0);
            let mb = row.bytes as f64 / 1e6;
            println!(
                "| {} | {mb:.1} | {a:.1}, {b:.1}, {c:.1} | {:.1} | {:.2} |",
                row.shape,
                c / mb,
                row.growth()
            );
        }
        println!(
            "\npeak memory: {} MB, the largest message: {} MB",
            peak / 1_000_000,
            largest / 1_000_000
        );
    }
    for row in &bad {
        eprintln!(
            "{}: twice the size takes {:.2} times as long",
            row.shape,
            row.growth()
        );
    }
    // The message, what it becomes, and what is decoded of it.
    let too_much = peak > largest * 8;
    if too_much {
        eprintln!("{peak} bytes of memory for a message of {largest}");
    }
    ExitCode::from(u8::from(!bad.is_empty() || too_much))
}
