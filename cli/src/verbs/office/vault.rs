//! `vault`: vaults of the office, and who is a member of them.

use clap::{Args, Subcommand};
use serde_json::json;
use twinkeep_nodes::remote::office::VaultOf;
use twinkeep_nodes::remote::people::{AccountKey, VaultPlan};
use twinkeep_nodes::tracker::names::fold;
use twinkeep_nodes::transport::keys::fingerprint_of;

use crate::error::{Code, hinted, usage};
use crate::kit;
use crate::office::{Role, Service, Session, admin, login, told};
use crate::session::Run;
use crate::show;
use crate::vaults;

/// What to do with vaults of the office.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Every member of a vault can read all of it.\n\n\
    Example: one for the sales team, and a backup into it\n  \
    twinkeep vault create sales --shared --member bert --member carla\n  \
    twinkeep --vault twinkeep://sales backup /srv/offers"
)]
pub struct VaultArgs {
    #[command(subcommand)]
    verb: VaultVerb,
}

#[derive(Subcommand, Debug)]
enum VaultVerb {
    /// Make a vault that belongs to the account that is logged in here
    Create(CreateArgs),
    /// List the vaults that the account logged in here is a member of
    List(ListArgs),
    /// List the members of a vault
    #[command(after_help = "Example:\n  twinkeep vault members sales")]
    Members(WhichArgs),
    /// Make an account a member of a shared vault: it can read all that is in it
    AddMember(AddArgs),
    /// Let an account in no more
    RemoveMember(RemoveArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "What is stored by several members is stored once. It counts for the quota of who made it.\n\n\
    Examples: a second vault that nobody else can read; one for three\n  \
    twinkeep vault create diary --private\n  \
    twinkeep vault create sales --shared --member bert --member carla")]
struct CreateArgs {
    /// The vault's name
    name: String,
    /// It can have several members, who can read all of it
    #[arg(long)]
    shared: bool,
    /// The company's recovery kit does not open it. If all members lose their passwords, nobody can
    #[arg(long)]
    private: bool,
    /// Another member from the beginning; may be given several times
    #[arg(long = "member", value_name = "ACCOUNT", requires = "shared")]
    members: Vec<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example: all there are, for an administrator\n  twinkeep vault list --all")]
struct ListArgs {
    /// All vaults of the office; for administrators
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct WhichArgs {
    /// The vault: NAME, OWNER/NAME, or the first digits of its id
    #[arg(id = "which", value_name = "VAULT")]
    which: String,
}

#[derive(Args, Debug)]
#[command(after_help = "Only who made the vault says who is a member. `user devices` shows the key of who is logged\n\
    in there: who compares the two does not rely on the host for it.\n\n\
    Example:\n  twinkeep vault add-member sales dora")]
struct AddArgs {
    #[command(flatten)]
    vault: WhichArgs,
    /// The account
    account: String,
    /// Refuse if this is not the fingerprint of the account's key
    #[arg(long, value_name = "FINGERPRINT")]
    key: Option<String>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "The account is refused at once, also where it is in the middle of something. What it has seen it\n\
    may have kept, and the vault's key too: what must stay hidden from it belongs in a new vault.\n\
    Whoever is a member may remove themselves.\n\n\
    Example:\n  twinkeep vault remove-member sales dora"
)]
struct RemoveArgs {
    #[command(flatten)]
    vault: WhichArgs,
    /// The account
    account: String,
}

/// Does it.
pub fn run(run: &Run, args: &VaultArgs) -> anyhow::Result<Code> {
    match &args.verb {
        VaultVerb::Create(args) => create(run, args),
        VaultVerb::List(args) => list(run, args),
        VaultVerb::Members(args) => members(run, args),
        VaultVerb::AddMember(args) => add(run, args),
        VaultVerb::RemoveMember(args) => remove(run, args),
    }
}

fn create(run: &Run, args: &CreateArgs) -> anyhow::Result<Code> {
    let session = Session::begin()?;
    let mut members: Vec<AccountKey> = Vec::new();
    for name in &args.members {
        let member = session.user.account_key(name).map_err(told)?;
        if member.id != session.user.id && members.iter().all(|other| other.id != member.id) {
            members.push(member);
        }
    }
    let (is_shared, for_company) = (args.shared, !args.private);
    let plan = VaultPlan { name: &args.name, is_shared, for_company, members: &members };
    let id = session.user.create_vault(&run.env(Some(1)), session.key(), &plan).map_err(told)?;
    let location = format!("twinkeep://{}/{}", session.user.name, args.name);
    if run.screen.json {
        let names: Vec<&str> = members.iter().map(|member| &member.name[..]).collect();
        let fields = json!({
            "vault": id.to_hex(),
            "name": args.name,
            "shared": args.shared,
            "for_company": for_company,
            "members": names,
            "location": location,
        });
        run.screen.message("vault_created", &fields)?;
        return Ok(Code::Done);
    }
    run.screen.tell(&format!("made the vault {}; `--vault {location}` names it", args.name))?;
    for member in &members {
        tell_member(run, &args.name, member)?;
    }
    Ok(Code::Done)
}

fn tell_member(run: &Run, vault: &str, member: &AccountKey) -> anyhow::Result<()> {
    let key = fingerprint_of(&member.key.0);
    run.screen.tell(&format!("{} is a member of {vault}; its key is {key}", member.name))
}

/// What may be listed from here.
fn all(args: &ListArgs) -> anyhow::Result<Vec<VaultOf>> {
    if args.all {
        return admin()?.vaults().map_err(told);
    }
    Session::begin()?.user.vaults().map_err(told)
}

fn list(run: &Run, args: &ListArgs) -> anyhow::Result<Code> {
    let vaults = all(args)?;
    if run.screen.json {
        for vault in &vaults {
            let fields = json!({
                "vault": vault.id.to_hex(),
                "name": vault.name,
                "kind": vault.kind,
                "owner": vault.owner,
                "members": vault.members,
                "for_company": vault.for_company,
                "location": vaults::location(vault),
            });
            run.screen.message("vault", &fields)?;
        }
        return Ok(Code::Done);
    }
    let rows = vaults.iter().map(|vault| {
        let kit = if vault.for_company { "opens it" } else { "does not" };
        vec![vaults::location(vault), vault.kind.clone(), vault.members.join(", "), kit.to_owned()]
    });
    let header = ["Vault", "Kind", "Members", "Recovery kit"];
    run.screen.write_stdout(show::table(&header, rows.collect(), &[]).as_bytes())?;
    Ok(Code::Done)
}

/// Whether vaults are looked for as an administrator: on the host, where nobody is logged in.
fn is_console() -> anyhow::Result<bool> {
    Ok(login()?.is_none() && Service::get()?.role == Role::Host)
}

fn members(run: &Run, args: &WhichArgs) -> anyhow::Result<Code> {
    let (vaults, account) = match is_console()? {
        true => (admin()?.vaults().map_err(told)?, String::new()),
        false => {
            let session = Session::begin()?;
            (session.user.vaults().map_err(told)?, session.user.name)
        }
    };
    let vault = vaults::named(&vaults, &account, &args.which)?;
    for member in &vault.members {
        let is_owner = *member == vault.owner;
        match (run.screen.json, is_owner) {
            (true, _) => run.screen.message("member", &json!({ "account": member, "is_owner": is_owner }))?,
            (false, true) => run.screen.line(&format!("{member}  owner"))?,
            (false, false) => run.screen.line(member)?,
        }
    }
    Ok(Code::Done)
}

fn changed(run: &Run, vault: &VaultOf, account: &str, is_member: bool) -> anyhow::Result<()> {
    let fields = json!({
        "vault": vault.id.to_hex(),
        "name": vault.name,
        "account": account,
        "is_member": is_member,
    });
    run.screen.message("member_changed", &fields)
}

fn add(run: &Run, args: &AddArgs) -> anyhow::Result<Code> {
    let (vault, member) = match kit::is_named(&run.globals) {
        true => add_with_kit(run, args)?,
        false => {
            let session = Session::begin()?;
            let vaults = session.user.vaults().map_err(told)?;
            let vault = vaults::named(&vaults, &session.user.name, &args.vault.which)?;
            let member = session.user.account_key(&args.account).map_err(told)?;
            compare(args, &member)?;
            session.user.add_member(&run.env(Some(1)), session.key(), vault, &member).map_err(told)?;
            (vault.clone(), member)
        }
    };
    if run.screen.json {
        changed(run, &vault, &member.name, true)?;
        return Ok(Code::Done);
    }
    tell_member(run, &vault.name, &member)?;
    run.screen.tell(&format!("it opens it with --vault {}", vaults::location(&vault)))?;
    Ok(Code::Done)
}

/// As an administrator with the recovery kit, where no member is there to do it.
fn add_with_kit(run: &Run, args: &AddArgs) -> anyhow::Result<(VaultOf, AccountKey)> {
    let recovery = kit::recovery(&run.globals)?;
    let all = recovery.vaults().map_err(told)?;
    let infos: Vec<VaultOf> = all.iter().map(|vault| vault.info.clone()).collect();
    let info = vaults::named(&infos, "", &args.vault.which)?;
    let account = recovery.belongings(&args.account).map_err(told)?;
    let Some(key) = account.key else {
        return Err(usage(format!("{} has no key yet: it gets one at its next login", account.name)));
    };
    let member = AccountKey { id: account.id, name: account.name, key };
    compare(args, &member)?;
    if let Some(vault) = all.iter().find(|vault| vault.info.id == info.id) {
        recovery.add_member(&run.env(Some(1)), vault, &member).map_err(told)?;
    }
    Ok((info.clone(), member))
}

/// Fails where somebody said what the key must be, and it is not.
fn compare(args: &AddArgs, member: &AccountKey) -> anyhow::Result<()> {
    let key = fingerprint_of(&member.key.0);
    if args.key.as_ref().is_some_and(|expected| !expected.trim().eq_ignore_ascii_case(&key)) {
        let text = format!("the office says that the key of {} is {key}", member.name);
        return Err(hinted(Code::NotAllowed, text, "if it is not what `user devices` shows there, share nothing"));
    }
    Ok(())
}

fn remove(run: &Run, args: &RemoveArgs) -> anyhow::Result<Code> {
    let name = &args.account;
    let vault = match is_console()? {
        true => {
            let admin = admin()?;
            let vaults = admin.vaults().map_err(told)?;
            let vault = vaults::named(&vaults, "", &args.vault.which)?.clone();
            require_member(&vault, name)?;
            admin.remove_member(vault.id, name).map_err(told)?;
            vault
        }
        false => {
            let session = Session::begin()?;
            let vaults = session.user.vaults().map_err(told)?;
            let vault = vaults::named(&vaults, &session.user.name, &args.vault.which)?.clone();
            require_member(&vault, name)?;
            session.user.remove_member(vault.id, name).map_err(told)?;
            vault
        }
    };
    match run.screen.json {
        true => changed(run, &vault, name, false)?,
        false => {
            let note = "what it has seen it may have kept";
            run.screen.tell(&format!("{name} is no member of {} any more; {note}", vault.name))?;
        }
    }
    Ok(Code::Done)
}

fn require_member(vault: &VaultOf, name: &str) -> anyhow::Result<()> {
    match vault.members.iter().any(|member| fold(member) == fold(name)) {
        true => Ok(()),
        false => Err(usage(format!("{name} is no member of {}", vault.name))),
    }
}
