//! Power cuts, one after another, on one file system and one spool.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::book::Book;
use super::disk::{FileSystem, Image};
use super::process::start;
use super::worker::Orders;

/// How a cycle's load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Many at a time: groups, and a log that is never at rest.
    Fast,
    /// One at a time, with pauses: the newest promise is not helped by the sync of a later one.
    Slow,
    /// The same, with nothing but body files: the newest promise depends on the directory's own
    /// sync.
    SlowFiles,
}

/// Figures of a series of cuts.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub cycles: usize,
    pub acknowledged: usize,
    /// Promises that were broken, with what was found.
    pub lost: Vec<String>,
    /// How often the newest promise was looked for.
    pub newest: usize,
    /// How often it was lost.
    pub newest_lost: usize,
    /// Mounting (the journal's replay) and opening, per cut.
    pub recovery: Vec<Duration>,
}

/// A spool on a file system whose power is cut again and again.
pub struct Proof {
    image: Image,
    /// The body files' own file system, if they have one.
    bodies: Option<Image>,
    book: Book,
    spools: usize,
    cycle: usize,
    recovering: Duration,
    lost: HashSet<usize>,
    pub figures: Figures,
    dice: Dice,
}

impl Proof {
    pub fn new(kind: FileSystem, seed: u64) -> Proof {
        Proof {
            image: Image::new(kind),
            bodies: None,
            book: Book::default(),
            spools: 0,
            cycle: 0,
            recovering: Duration::ZERO,
            lost: HashSet::new(),
            figures: Figures::default(),
            dice: Dice(seed),
        }
    }

    /// The same with body files on a file system of their own. On one file system the sync of the
    /// log makes the names of body files durable too (ext4 and XFS have one journal), so that
    /// nobody sees whether the directory is synced; on two it is all that does.
    pub fn with_bodies_apart(kind: FileSystem, seed: u64) -> Proof {
        let mut proof = Proof::new(kind, seed);
        let (path, mut bodies) = (proof.bodies(), Image::new(kind));
        proof.image.mount();
        std::fs::create_dir_all(&path).expect("a directory");
        proof.image.unmount();
        bodies.mount();
        // ext4 makes one, and the spool would wonder at it.
        let _ = std::fs::remove_dir(bodies.path().join("lost+found"));
        bodies.unmount();
        bodies.mount_at(path);
        proof.bodies = Some(bodies);
        proof
    }

    fn mount(&mut self) {
        self.recovering = self.image.mount();
        if let Some(bodies) = &mut self.bodies {
            self.recovering += bodies.mount();
        }
    }

    fn cut(&mut self) -> u128 {
        let moment = self.image.cut();
        if let Some(bodies) = &mut self.bodies {
            bodies.cut();
        }
        moment
    }

    fn unmount(&mut self) {
        if let Some(bodies) = &mut self.bodies {
            bodies.unmount();
        }
        self.image.unmount();
    }

    /// Where the spool is.
    pub fn state_dir(&self) -> PathBuf {
        self.image.path().join(format!("state{}", self.spools))
    }

    /// A directory of body files of the spool.
    pub fn bodies(&self) -> PathBuf {
        self.state_dir().join("spool/bodies")
    }

    /// Makes promises, cuts the power at a moment of the dice's choice, and looks at the next
    /// start.
    pub fn cycle(&mut self, pace: Pace, through: &[&str]) {
        self.mount();
        let (tasks, pause, kind, most) = match pace {
            Pace::Fast => (8, 0, 0, 60),
            Pace::Slow => (1, 4, 0, 12),
            Pace::SlowFiles => (1, 4, 500_000, 6),
        };
        let orders = Orders {
            first: self.cycle * 1_000_000 + kind,
            tasks,
            pause: Duration::from_millis(pause),
            ..self.look()
        };
        self.cycle += 1;
        let mut worker = start(&orders, through);
        let mut is_ready = false;
        while let Some(line) = worker.line() {
            is_ready = line.starts_with("ready");
            if is_ready {
                break;
            }
            self.judge(&line);
        }
        let mut promises = 0;
        let wanted = 1 + self.dice.roll(most);
        while is_ready && promises < wanted {
            let Some(line) = worker.line() else { break };
            promises += usize::from(self.book.note(&line));
            self.judge(&line);
        }
        // Half of the cuts come at once, for the newest promise; half of them somewhere in the next
        // steps.
        let later = Duration::from_micros(self.dice.roll(2) as u64 * self.dice.roll(3_000) as u64);
        let until = Instant::now() + later;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let moment = self.cut();
        for line in worker.kill() {
            promises += usize::from(self.book.note_before(&line, moment));
            self.judge(&line);
        }
        self.unmount();
        self.figures.cycles += 1;
        self.figures.acknowledged += promises;
        if !is_ready {
            // What cannot be opened has lost everything; the next cycle begins anew.
            let all = std::mem::take(&mut self.book).promised;
            let lost = all.keys().map(|n| format!("{n} with the whole spool"));
            self.figures.lost.extend(lost);
            self.spools += 1;
        }
    }

    /// Looks once more, after the last cut.
    pub fn finish(&mut self, through: &[&str]) {
        self.mount();
        let orders = self.look();
        let said = start(&orders, through).rest();
        assert!(
            said.iter().any(|line| line.starts_with("looked")),
            "{said:?}"
        );
        said.iter().for_each(|line| self.judge(line));
        self.unmount();
    }

    fn look(&self) -> Orders {
        let book = self.image.beside("book");
        self.book.write(&book);
        Orders {
            directory: self.state_dir(),
            book,
            ..Orders::default()
        }
    }

    fn judge(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "opened" => {
                let took = Duration::from_micros(rest.parse().expect("microseconds"));
                if self.cycle > 1 {
                    self.figures.recovery.push(self.recovering + took);
                }
            }
            "newest" => {
                self.figures.newest += 1;
                self.figures.newest_lost += usize::from(rest.starts_with("lost"));
            }
            "lost" => {
                // Told once: what was lost is missing in later cycles, too.
                let n = rest.split(' ').next().and_then(|n| n.parse().ok());
                let n: usize = n.expect("a number");
                self.book.promised.remove(&n);
                if self.lost.insert(n) {
                    self.figures.lost.push(rest.to_owned());
                }
            }
            "unopened" | "false" => self.figures.lost.push(line.to_owned()),
            "emptied" => self.book = Book::default(),
            _ => {}
        }
    }
}

impl Figures {
    /// One row of a table.
    pub fn row(&self, name: &str) -> String {
        let mut times = self.recovery.clone();
        times.sort();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let longest = times.last().copied().unwrap_or_default();
        format!(
            "{name:<34} {:>6} {:>12} {:>6} {:>7} {:>11} {:>9.1} {:>9.1}",
            self.cycles,
            self.acknowledged,
            self.lost.len(),
            self.newest,
            self.newest_lost,
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
        )
    }

    /// The head of that table.
    pub fn head() -> String {
        format!(
            "{:<34} {:>6} {:>12} {:>6} {:>7} {:>11} {:>9} {:>9}",
            "", "cuts", "acknowledged", "lost", "newest", "newest lost", "median ms", "max ms"
        )
    }
}

/// Numbers that look random and follow from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}
