//! Watches long work: draws its progress, answers SIGUSR1, and turns SIGINT and SIGTERM into a clean end.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use twinkeep_engine::progress::Progress;

use crate::error::Code;
use crate::screen::{Screen, put_path};
use crate::show;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);
/// How often a status message goes out with `--json`.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Watching ends when this is dropped.
pub struct Watch {
    screen: Arc<Screen>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A progress that warns on the screen.
pub fn progress(screen: &Arc<Screen>) -> Arc<Progress> {
    let screen = screen.clone();
    Progress::new(move |warning| screen.warn(Some(&warning.path), &warning.message))
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system takes no signal handler or thread.
    pub fn begin(screen: &Arc<Screen>, progress: &Arc<Progress>) -> anyhow::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set and ends the process at once.
            signal_hook::flag::register_conditional_shutdown(signal, Code::Interrupted as i32, end.clone())?;
            signal_hook::flag::register(signal, end.clone())?;
        }
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, asked.clone())?;
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = Watcher { screen: screen.clone(), progress: progress.clone(), end, asked, stop: stop.clone() };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || watcher.run())?;
        Ok(Self { screen: screen.clone(), stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A watcher that panicked has nothing to tell that matters.
            let _ = thread.join();
        }
        self.screen.set_bar(None);
    }
}

struct Watcher {
    screen: Arc<Screen>,
    progress: Arc<Progress>,
    end: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Watcher {
    fn run(&self) {
        let begun = Instant::now();
        let bar = self.screen.has_bar().then(new_bar);
        self.screen.set_bar(bar.clone());
        let mut told = begun;
        let mut is_ending = false;
        while !self.stop.load(Ordering::Relaxed) {
            if self.end.load(Ordering::Relaxed) && !is_ending {
                is_ending = true;
                self.progress.cancel();
                if !self.screen.json {
                    self.screen.notice("twinkeep: interrupted, ending cleanly; once more ends at once");
                }
            }
            if self.asked.swap(false, Ordering::Relaxed) {
                self.screen.notice(&Numbers::read(&self.progress).line(begun.elapsed()));
            }
            if let Some(bar) = &bar {
                draw(bar, &self.progress);
            }
            if self.screen.json && self.screen.has_progress && told.elapsed() >= STATUS_EVERY {
                told = Instant::now();
                // The next message that matters finds out when nobody reads any more.
                let _ = self.screen.message("status", &Numbers::read(&self.progress).fields(begun.elapsed()));
            }
            std::thread::park_timeout(TICK);
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    debug_assert!(std::io::stderr().is_terminal());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)).with_style(style(WITHOUT_TOTAL))
}

const WITHOUT_TOTAL: &str = "{spinner} {elapsed} {bytes} {bytes_per_sec}  {wide_msg}";
const WITH_TOTAL: &str = "[{bar:24}] {percent}% {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}  {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    // Both templates are constants; a wrong one shows the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let numbers = Numbers::read(progress);
    if numbers.bytes_total > 0 && bar.length() != Some(numbers.bytes_total) {
        bar.set_style(style(WITH_TOTAL));
        bar.set_length(numbers.bytes_total);
    }
    bar.set_position(numbers.bytes_done);
    let files = match numbers.files_total {
        0 => show::count(numbers.files_done, "file"),
        total => format!("{} of {}", numbers.files_done, show::count(total, "file")),
    };
    bar.set_message(format!("{files}  {}", show::escaped(&numbers.current)));
    bar.tick();
}

/// The counters at one moment.
struct Numbers {
    files_done: u64,
    files_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    bytes_written: u64,
    current: Vec<u8>,
}

impl Numbers {
    fn read(progress: &Progress) -> Self {
        Self {
            files_done: progress.files_done.load(Ordering::Relaxed),
            files_total: progress.files_total.load(Ordering::Relaxed),
            bytes_done: progress.bytes_done.load(Ordering::Relaxed),
            bytes_total: progress.bytes_total.load(Ordering::Relaxed),
            bytes_written: progress.bytes_written.load(Ordering::Relaxed),
            current: progress.current(),
        }
    }

    /// One line for people.
    fn line(&self, elapsed: Duration) -> String {
        let of = |total: u64| if total > 0 { format!(" of {}", show::size(total)) } else { String::new() };
        format!(
            "{}: {}, {}{}, {} written, at {}",
            show::duration(elapsed),
            show::count(self.files_done, "file"),
            show::size(self.bytes_done),
            of(self.bytes_total),
            show::size(self.bytes_written),
            show::escaped(&self.current)
        )
    }

    /// A status message.
    fn fields(&self, elapsed: Duration) -> Value {
        let mut fields = Map::new();
        fields.insert("seconds_elapsed".into(), elapsed.as_secs().into());
        fields.insert("files_done".into(), self.files_done.into());
        fields.insert("bytes_done".into(), self.bytes_done.into());
        fields.insert("bytes_written".into(), self.bytes_written.into());
        // Totals are left out while they are not known.
        if self.bytes_total > 0 {
            fields.insert("files_total".into(), self.files_total.into());
            fields.insert("bytes_total".into(), self.bytes_total.into());
        }
        if !self.current.is_empty() {
            put_path(&mut fields, "current", &self.current);
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_totals_once_they_are_known() {
        let check = |bytes_total, current: &[u8], expected: &str| {
            let current = current.to_vec();
            let numbers =
                Numbers { files_done: 1, files_total: 2, bytes_done: 3, bytes_total, bytes_written: 5, current };
            assert_eq!(numbers.fields(Duration::from_millis(1900)).to_string(), expected);
        };
        check(0, b"", r#"{"bytes_done":3,"bytes_written":5,"files_done":1,"seconds_elapsed":1}"#);
        check(
            4,
            b"/a",
            r#"{"bytes_done":3,"bytes_total":4,"bytes_written":5,"current":"/a","files_done":1,"files_total":2,"seconds_elapsed":1}"#,
        );
    }
}
