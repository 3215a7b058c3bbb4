//! `login` and `logout`.

use clap::Args;
use serde_json::json;

use crate::dirs;
use crate::error::{Code, one_line, usage};
use crate::office;
use crate::outbox;
use crate::password;
use crate::session::Run;

/// Who.
#[derive(Args, Debug)]
#[command(
    after_help = "From then on backups of this user on this machine go to the office; the password is not needed\n\
    again until `twinkeep logout`. What is kept for that lies in the config folder, for its owner's\n\
    eyes only.\n\n\
    Example:\n  twinkeep login anna"
)]
pub struct LoginArgs {
    /// The account's name
    #[arg(value_name = "NAME")]
    account: String,
}

/// Nothing to say.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  twinkeep logout")]
pub struct LogoutArgs {}

/// Logs in.
pub fn run(run: &Run, args: &LoginArgs) -> anyhow::Result<Code> {
    let password = match password::given(&run.globals, &dirs::process_var)? {
        Some(password) => password,
        None if password::can_ask() => password::ask(&format!("password of {}", args.account))?,
        None => return Err(usage("give the password with --password-file, --password-command or TWINKEEP_PASSWORD")),
    };
    let user = office::log_in(&args.account, &password)?;
    match run.screen.json {
        true => run.screen.message("login", &json!({ "account": user.name, "is_admin": user.is_admin }))?,
        false => run.screen.tell(&format!("{} is logged in on this machine", user.name))?,
    }
    Ok(Code::Done)
}

/// Sends what waits, and says that this machine does not log in again.
fn tell_office(run: &Run) -> anyhow::Result<()> {
    let session = office::Session::begin()?;
    run.deliver(&session, outbox::LOCK_WAIT)?;
    session.user.revoke_device(session.device).map_err(office::told)
}

/// Logs out.
pub fn logout(run: &Run, _args: &LogoutArgs) -> anyhow::Result<Code> {
    // The office is told while it can be; the keys go in any case.
    if let Some(login) = office::login()? {
        tell_office(run).unwrap_or_else(|error| {
            let (why, id) = (one_line(&error), login.device.get(..8).unwrap_or(&login.device));
            let text = format!(
                "the office was not told ({why}): {} on another PC ends this login there, too",
                format_args!("`twinkeep user revoke-device {id}` of {}", login.account)
            );
            run.screen.warn(None, &text);
        });
    }
    for outbox in outbox::waiting().unwrap_or_default() {
        let (folder, account) = (outbox.folder(), outbox.account().to_owned());
        let text = format!("what waits in {} is sent when {account} is logged in again", folder.display());
        run.screen.warn(None, &text);
    }
    let was_there = office::forget_login()?;
    match (run.screen.json, was_there) {
        (true, _) => run.screen.message("logout", &json!({ "was_logged_in": was_there }))?,
        (false, true) => run.screen.tell("logged out; this machine's keys are gone")?,
        (false, false) => run.screen.tell("nobody was logged in")?,
    }
    Ok(Code::Done)
}
