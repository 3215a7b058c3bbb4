//! `deliver`: what was backed up while the host was away goes to it.

use std::time::Duration;

use clap::Args;

use crate::error::{Code, judge};
use crate::office::Session;
use crate::outbox;
use crate::session::Run;

/// How long to try.
#[derive(Args, Debug)]
#[command(
    after_help = "Every backup does it first, and so does the terminal's service for the user it runs as: this is\n\
    for whoever does not want to wait for either.\n\n\
    Example:\n  twinkeep deliver --wait"
)]
pub struct DeliverArgs {
    /// Wait until the host can be reached
    #[arg(long)]
    wait: bool,
}

/// How often the host is tried.
const AGAIN: Duration = Duration::from_secs(2);

/// Sends it.
pub fn run(run: &Run, args: &DeliverArgs) -> anyhow::Result<Code> {
    if !outbox::is_any_waiting()? {
        run.screen.tell("nothing waits to be sent")?;
        return Ok(Code::Done);
    }
    let session = loop {
        match Session::begin() {
            Err(error) if args.wait && judge(&error).0 == Code::NoTracker => std::thread::sleep(AGAIN),
            begun => break begun?,
        }
    };
    let delivered = run.deliver(&session, outbox::LOCK_WAIT)?;
    if delivered.snapshots == 0 && !outbox::is_any_waiting()? {
        // What was there had arrived before.
        run.screen.tell("nothing waits to be sent")?;
    }
    for outbox in outbox::waiting()?.iter().filter(|outbox| outbox.account() != session.user.name) {
        let (name, account) = (outbox.name(), outbox.account());
        run.screen.warn(None, &format!("what waits for {name} is {account}'s, who has to be logged in to send it"));
    }
    Ok(if delivered.is_all { Code::Done } else { Code::FewerCopies })
}
