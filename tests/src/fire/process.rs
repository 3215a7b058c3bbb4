//! Processes with a fate: started, stopped for a while, killed, as the dice say; and only those started here.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use twinkeep_engine::env::Dice;

/// What happens to a process besides its work, counted from its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    /// It is stopped then, for so long.
    pub stop: Option<(Duration, Duration)>,
    /// It is killed so long after that, or after its start where it is not stopped. Less than the stop's length and
    /// it is killed while it stands still.
    pub kill: Option<Duration>,
}

impl Fate {
    /// About every second process is left alone. `usual` is how long one of its kind takes; `stop_bits` bounds stops:
    /// 2^`stop_bits` milliseconds, short ones being as frequent as long ones.
    pub fn draw(dice: &mut Dice, usual: Duration, stop_bits: usize) -> Self {
        let moment = |dice: &mut Dice| usual.mul_f64(dice.below(1300) as f64 / 1000.0);
        let stop = |dice: &mut Dice| {
            let least = 1 << dice.below(stop_bits);
            (moment(dice), Duration::from_millis((least + dice.below(least)) as u64))
        };
        match dice.below(10) {
            0..=4 => Self::default(),
            5 | 6 => Self { stop: None, kill: Some(moment(dice)) },
            7 | 8 => Self { stop: Some(stop(dice)), kill: None },
            _ => {
                let (at, len) = stop(dice);
                Self { stop: Some((at, len)), kill: Some(len.mul_f64(dice.below(1500) as f64 / 1000.0)) }
            }
        }
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none where we killed it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Whether it was stopped on the way.
    pub was_stopped: bool,
    /// How long it lived.
    pub lived: Duration,
}

/// How often a process is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Nothing here works for so long, stops included.
const HANGS: Duration = Duration::from_secs(900);

/// Runs a process to its end, whichever that is.
pub fn run(command: &mut Command, fate: Fate) -> Result<Ended, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut outputs = [tempfile::tempfile().map_err(told)?, tempfile::tempfile().map_err(told)?];
    command.stdin(Stdio::null()).stdout(outputs[0].try_clone().map_err(told)?);
    command.stderr(outputs[1].try_clone().map_err(told)?);
    let begun = Instant::now();
    let mut child = command.spawn().map_err(told)?;
    let outcome = attend(&mut child, fate, begun);
    if outcome.is_err() {
        // A child that has ended cannot be killed, which is as well.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (code, was_stopped) = outcome?;
    let [stdout, stderr] = outputs.each_mut().map(text);
    Ok(Ended { code, stdout: stdout?, stderr: stderr?, was_stopped, lived: begun.elapsed() })
}

fn text(file: &mut File) -> Result<String, String> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Lets a child's fate come true. Until it is waited for, its id is nobody else's.
fn attend(child: &mut Child, fate: Fate, begun: Instant) -> Result<(Option<i32>, bool), String> {
    let pid = Pid::from_child(child);
    let stop = fate.stop.map(|(at, len)| (begun + at, begun + at + len));
    let kill = fate.kill.map(|after| stop.map_or(begun, |(at, _)| at) + after);
    let (mut stopped, mut resumed, mut killed) = (false, false, false);
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let code = status.code();
            if code.is_none() && !killed {
                return Err(format!("a process ended by itself with {status}"));
            }
            return Ok((code, stopped));
        }
        let now = Instant::now();
        let signal = match stop {
            _ if !killed && kill.is_some_and(|at| now >= at) => {
                killed = true;
                Some(Signal::KILL)
            }
            Some((at, _)) if !stopped && now >= at => {
                stopped = true;
                Some(Signal::STOP)
            }
            Some((_, until)) if stopped && !resumed && now >= until => {
                resumed = true;
                Some(Signal::CONT)
            }
            _ => None,
        };
        if let Some(signal) = signal {
            kill_process(pid, signal).map_err(|error| format!("send a signal: {error}"))?;
        }
        if now.duration_since(begun) > HANGS {
            return Err(format!("a process has not ended after {HANGS:?}; its fate was {fate:?}"));
        }
        std::thread::sleep(POLL);
    }
}
