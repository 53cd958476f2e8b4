//! Outcomes as Markdown tables, with the number of workers at which each row stops scaling.

use crate::sim::{Ledger, Ns};

/// The numbers of workers that are looked at.
pub const WORKERS: [usize; 8] = [2, 4, 8, 16, 32, 64, 128, 256];

/// Below this part of the ideal speed something does not scale.
const WORTHWHILE: f64 = 0.8;

/// A thing that one at a time can use is what stops a run in which it is in use for this part of it.
const BUSY: f64 = 0.6;

/// How a run ended.
pub struct Outcome {
    pub time: Ns,
    /// No schedule is faster.
    pub ideal: Ns,
    pub workers: usize,
    pub ledger: Ledger,
    /// What one at a time can use, with how long it was used.
    pub serial: Vec<(&'static str, Ns)>,
}

impl Outcome {
    pub fn ratio(&self) -> f64 {
        self.time as f64 / self.ideal as f64
    }

    fn scales(&self) -> bool {
        self.ratio() <= 1.0 / WORTHWHILE
    }

    /// What kept it from being ideal.
    fn why(&self) -> String {
        let used = |busy: Ns| busy as f64 / self.time as f64;
        let busiest = self.serial.iter().max_by_key(|(_, busy)| busy);
        let (name, part) = match busiest {
            Some((name, busy)) if used(*busy) >= BUSY => {
                return format!("{name}, busy for {:.0} %", 100.0 * used(*busy));
            }
            _ => self.ledger.culprit(self.workers, self.ideal),
        };
        format!("{name}, {:.0} % of the loss", 100.0 * part)
    }
}

/// Prints one table: a row for each name, a column for each number of workers.
pub fn print(title: &str, rows: &[(String, Vec<Outcome>)]) {
    println!("\n**{title}**\n");
    print!("| time / ideal |");
    WORKERS.iter().for_each(|workers| print!(" {workers} |"));
    println!(" stops scaling at |\n|---|{}---|", "---:|".repeat(WORKERS.len()));
    for (name, outcomes) in rows {
        print!("| {name} |");
        outcomes.iter().for_each(|outcome| print!(" {:.2} |", outcome.ratio()));
        match outcomes.iter().find(|outcome| !outcome.scales()) {
            Some(outcome) => println!(" {}: {} |", outcome.workers, outcome.why()),
            None => println!(" – |"),
        }
    }
}

/// Prints where the design of a table first stops scaling.
pub fn print_end(rows: &[(String, Vec<Outcome>)]) {
    let ends = rows.iter().filter_map(|(name, outcomes)| {
        Some((name, outcomes.iter().find(|outcome| !outcome.scales())?))
    });
    match ends.min_by_key(|(_, outcome)| outcome.workers) {
        Some((name, outcome)) => {
            println!("\nStops scaling at n = {} ({name}): {}.", outcome.workers, outcome.why());
        }
        None => println!("\nScales to {} workers.", WORKERS[WORKERS.len() - 1]),
    }
}
