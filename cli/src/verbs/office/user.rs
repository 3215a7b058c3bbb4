//! `user` and `token`: who and what may join.

use clap::{Args, Subcommand};
use serde_json::json;
use twinkeep_nodes::remote::admin::NewUser;

use super::device::{self, DevicesArgs, RevokeArgs};
use super::reset::{self, ResetArgs};
use crate::dirs;
use crate::error::{Code, usage};
use crate::office::{admin, change_password, current, told};
use crate::parse;
use crate::password;
use crate::session::Run;
use crate::show;
use crate::verbs::key::NewPassword;

/// What to do with accounts.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Example: an account that may use 200 GB\n  twinkeep user add anna --quota 200G"
)]
pub struct UserArgs {
    #[command(subcommand)]
    verb: UserVerb,
}

#[derive(Subcommand, Debug)]
enum UserVerb {
    /// Make an account and its vault
    Add(AddArgs),
    /// List the accounts
    #[command(after_help = "Example:\n  twinkeep user list")]
    List,
    /// Lock an account out at once; what it has stored stays
    #[command(after_help = "Example:\n  twinkeep user disable anna")]
    Disable(NameArgs),
    /// Let a locked account in again
    #[command(after_help = "Example:\n  twinkeep user enable anna")]
    Enable(NameArgs),
    /// Change the password of the account that is logged in here
    Passwd(PasswdArgs),
    /// Give an account whose password is lost another one, with the recovery kit
    Reset(ResetArgs),
    /// Say how much an account may use
    #[command(after_help = "Example: no limit\n  twinkeep user quota anna 0")]
    Quota(QuotaArgs),
    /// List the machines from which an account logs in without its password
    Devices(DevicesArgs),
    /// Let a machine log in without the password no more
    RevokeDevice(RevokeArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  twinkeep user add anna --quota 200G")]
struct AddArgs {
    /// The account's name
    name: String,
    /// How much it may use. Default: no limit
    #[arg(long, value_name = "SIZE", value_parser = parse::size, default_value = "0")]
    quota: u64,
    /// It may change the office
    #[arg(long)]
    admin: bool,
    /// Nobody but the account itself can read its vault, the company's recovery kit neither
    #[arg(long)]
    private: bool,
    #[command(flatten)]
    password: NewPassword,
}

#[derive(Args, Debug)]
#[command(after_help = "Machines on which the account is logged in stay so.\n\nExample:\n  twinkeep user passwd")]
struct PasswdArgs {
    #[command(flatten)]
    password: NewPassword,
}

#[derive(Args, Debug)]
struct NameArgs {
    /// The account's name
    name: String,
}

#[derive(Args, Debug)]
struct QuotaArgs {
    /// The account's name
    name: String,
    /// How much it may use; 0 for no limit
    #[arg(value_name = "SIZE", value_parser = parse::size)]
    quota: u64,
}

/// A machine that may join.
#[derive(Args, Debug)]
#[command(
    after_help = "Example: a machine named pc7 may join once within a day, and is let in by `twinkeep node approve`\n  \
    twinkeep token pc7"
)]
pub struct TokenArgs {
    /// The name the machine will have in the office
    name: String,
    /// It is let in without an administrator's approval
    #[arg(long)]
    auto: bool,
    /// Hours for which the token is good
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
    hours: u32,
}

/// Does it.
pub fn run(run: &Run, args: &UserArgs) -> anyhow::Result<Code> {
    match &args.verb {
        UserVerb::Add(args) => add(run, args),
        UserVerb::List => list(run),
        UserVerb::Disable(args) => disable(run, &args.name, true),
        UserVerb::Enable(args) => disable(run, &args.name, false),
        UserVerb::Passwd(args) => passwd(run, args),
        UserVerb::Reset(args) => reset::run(run, args),
        UserVerb::Quota(args) => quota(run, args),
        UserVerb::Devices(args) => device::list(run, args),
        UserVerb::RevokeDevice(args) => device::revoke(run, args),
    }
}

fn add(run: &Run, args: &AddArgs) -> anyhow::Result<Code> {
    let admin = admin()?;
    let password = args.password.get()?;
    let user = NewUser {
        name: &args.name,
        password: &password,
        quota: args.quota,
        is_admin: args.admin,
        is_private: args.private,
    };
    admin.add_user(&run.env(Some(1)), &user).map_err(told)?;
    match run.screen.json {
        true => run.screen.message("user_added", &json!({ "name": args.name }))?,
        false => run.screen.tell(&format!("made the account {0}; it logs in with `twinkeep login {0}`", args.name))?,
    }
    Ok(Code::Done)
}

fn list(run: &Run) -> anyhow::Result<Code> {
    let users = admin()?.users().map_err(told)?;
    if run.screen.json {
        for user in &users {
            let fields = json!({
                "name": user.name,
                "quota": user.quota,
                "used": user.used,
                "disabled": user.disabled,
                "is_admin": user.is_admin,
                "devices": user.devices,
            });
            run.screen.message("user", &fields)?;
        }
        return Ok(Code::Done);
    }
    let rows = users.iter().map(|user| {
        let quota = if user.quota == 0 { "no limit".to_owned() } else { show::size(user.quota) };
        let note = match (user.disabled, user.is_admin) {
            (true, _) => "locked out",
            (false, true) => "administrator",
            (false, false) => "",
        };
        vec![user.name.clone(), show::size(user.used), quota, user.devices.to_string(), note.to_owned()]
    });
    let table = show::table(&["Account", "Used", "Quota", "Devices", ""], rows.collect(), &[1, 2, 3]);
    run.screen.write_stdout(table.as_bytes())?;
    Ok(Code::Done)
}

fn disable(run: &Run, name: &str, on: bool) -> anyhow::Result<Code> {
    admin()?.disable(name, on).map_err(told)?;
    match (run.screen.json, on) {
        (true, _) => run.screen.message("user_changed", &json!({ "name": name, "disabled": on }))?,
        (false, true) => run.screen.tell(&format!("{name} is locked out; what is stored stays"))?,
        (false, false) => run.screen.tell(&format!("{name} may log in again"))?,
    }
    Ok(Code::Done)
}

fn passwd(run: &Run, args: &PasswdArgs) -> anyhow::Result<Code> {
    let account = current()?.account;
    let old = match password::given(&run.globals, &dirs::process_var)? {
        Some(password) => password,
        None if password::can_ask() => password::ask(&format!("present password of {account}"))?,
        None => return Err(usage("give the present password with --password-file, and the new one")),
    };
    let name = change_password(&run.env(Some(1)), &old, &args.password.get()?)?;
    match run.screen.json {
        true => run.screen.message("password_changed", &json!({ "name": name }))?,
        false => run.screen.tell(&format!("{name} has a new password"))?,
    }
    Ok(Code::Done)
}

fn quota(run: &Run, args: &QuotaArgs) -> anyhow::Result<Code> {
    admin()?.set_quota(&args.name, args.quota).map_err(told)?;
    match (run.screen.json, args.quota) {
        (true, quota) => run.screen.message("user_changed", &json!({ "name": args.name, "quota": quota }))?,
        (false, 0) => run.screen.tell(&format!("{} may use what there is", args.name))?,
        (false, quota) => run.screen.tell(&format!("{} may use {}", args.name, show::size(quota)))?,
    }
    Ok(Code::Done)
}

/// Makes a token.
pub fn token(run: &Run, args: &TokenArgs) -> anyhow::Result<Code> {
    let token = admin()?.token(&args.name, args.hours * 3600, args.auto).map_err(told)?;
    match run.screen.json {
        true => run.screen.message("token", &json!({ "name": args.name, "token": token.as_str() }))?,
        false => run.screen.line(&token)?,
    }
    Ok(Code::Done)
}
