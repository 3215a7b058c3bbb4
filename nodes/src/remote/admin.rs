//! The office in an administrator's hands.

use super::line::Cap;
use super::office::VaultOf;
use super::people::{DeviceRow, draw, get_devices, get_vault, put_new, usable};
use super::wire::get_texts;
use crate::tracker::login::{PasswordParams, derive, seal_account_key};
use crate::tracker::member::{pair, seal_vault};
use crate::tracker::names::{AccountDeviceId, AccountId, MachineId, NodeKey};
use crate::transport::ids::fixed;
use crate::transport::problem::{Problem, Why, problem};
use twinkeep_engine::crypto::PublicKey;
use twinkeep_engine::env::{Env, Time};
use twinkeep_engine::id::VaultId;
use twinkeep_engine::vault::keyring::PasswordCost;
use twinkeep_schema::office_capnp::{admin, host_status, trouble};
use zeroize::Zeroizing;

/// See the module.
pub struct Admin(pub Cap<admin::Client>);

/// A new account.
pub struct NewUser<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its first password.
    pub password: &'a str,
    /// Bytes it may use; 0 for no limit.
    pub quota: u64,
    /// Whether it may change the office.
    pub is_admin: bool,
    /// Whether the company's recovery key opens its vault.
    pub is_private: bool,
}

/// An account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserRow {
    /// Its name.
    pub name: String,
    /// Bytes it may use; 0 for no limit.
    pub quota: u64,
    /// Bytes it uses.
    pub used: u64,
    /// Whether it may not log in.
    pub disabled: bool,
    /// Whether it may change the office.
    pub is_admin: bool,
    /// Machines it logs in from without its password.
    pub devices: u32,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: NodeKey,
    /// pending, active, revoked or forgotten.
    pub status: String,
    /// online or offline.
    pub presence: String,
    /// Bytes its owner grants.
    pub granted: u64,
    /// Bytes of copies that count.
    pub used: u64,
    /// Bytes free on its disk, as far as it says.
    pub free: u64,
    /// Copies that count.
    pub frames: u64,
    /// Whether it is being emptied.
    pub draining: bool,
    /// When it was last heard of since the host started.
    pub last_seen: Option<Time>,
    /// Its program.
    pub version: String,
    /// What is odd about it.
    pub note: String,
    /// From where it is connected; empty while it is not.
    pub address: String,
    /// The physical machine.
    pub machine_id: MachineId,
    /// When it joined.
    pub joined: Time,
    /// When it last showed that it holds what it was asked for, since the host started.
    pub proven: Option<Time>,
    /// Frames that are being sent to it.
    pub on_their_way: u32,
    /// Hours that count, since it was last there.
    pub hours_missed: u32,
    /// Whether its copies are made elsewhere because it was away for too long.
    pub given_up: bool,
    /// How often it did not do what it was asked, or said what is not so, and has not made up for it.
    pub failures: u32,
    /// Until then it is given nothing because of that.
    pub rests_until: Option<Time>,
}

/// How safe a vault is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultRow {
    /// Its id.
    pub id: VaultId,
    /// Its name.
    pub name: String,
    /// company, private or shared.
    pub kind: String,
    /// Whose it is.
    pub owner: String,
    /// Bytes at the host.
    pub bytes: u64,
    /// Frames without a second place.
    pub owed_frames: u64,
    /// Their bytes.
    pub owed_bytes: u64,
    /// What is in the way; empty when they are on their way.
    pub why: String,
}

/// An entry of the office's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRow {
    /// Its place.
    pub sequence: u64,
    /// When.
    pub time: Time,
    /// Who.
    pub actor: String,
    /// What.
    pub what: String,
}

/// What verifying the office came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubRow {
    /// Frames verified, at the host and elsewhere.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames of the host that are bad.
    pub bad: u64,
    /// Of those, frames that got their bytes again.
    pub healed: u64,
    /// Machines that verified what they hold.
    pub machines: u32,
    /// Copies that were bad.
    pub copies_bad: u64,
    /// Machines that did not answer.
    pub silent: Vec<String>,
}

/// What was freed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreedRow {
    /// Bytes at the host.
    pub bytes: u64,
    /// Frames at the host.
    pub frames: u64,
    /// Copies that other machines set aside.
    pub copies: u64,
    /// What could not be done.
    pub problems: Vec<String>,
}

/// How a host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// Where machines reach it.
    pub address: String,
    /// Its generation.
    pub generation: u64,
    /// Bytes free on its disk.
    pub free: u64,
    /// Bytes of its disk.
    pub total: u64,
    /// Connections now.
    pub connections: u32,
    /// Vaults.
    pub vaults: u32,
    /// Frames without a second place.
    pub owed_frames: u64,
    /// What an administrator has to decide; empty when nothing.
    pub question: String,
    /// Bytes of its disk that new backups leave free.
    pub reserve: u64,
    /// What an administrator should know of.
    pub troubles: Vec<TroubleRow>,
}

/// Something an administrator should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TroubleRow {
    /// disk, log, question or threads.
    pub about: String,
    /// Whether something does not work because of it, or is not decided.
    pub is_serious: bool,
    /// What it is, for people.
    pub text: String,
}

/// What is done to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeChange {
    /// It takes part from now on.
    Approve,
    /// Its key is never trusted again.
    Revoke,
    /// It does not come back.
    Forget {
        /// Also where it has the only copy of what is lost at the host.
        give_up_data: bool,
    },
    /// What it holds goes elsewhere, or no longer.
    Drain(bool),
}

impl Admin {
    /// Makes an account and its vault. Everything secret is drawn here; the host is given what it is to keep.
    pub fn add_user(&self, env: &Env, user: &NewUser<'_>) -> Result<AccountId, Problem> {
        let entropy = &*env.entropy;
        let usage = |error: &dyn std::fmt::Display| problem(Why::Usage, error.to_string());
        let (mut id, mut salt) = ([0; 16], [0; 16]);
        entropy.fill(&mut id);
        entropy.fill(&mut salt);
        let id = AccountId(id);
        let cost = PasswordCost::default();
        let keys = derive(user.password, &PasswordParams { salt, cost }).map_err(|error| usage(&error))?;
        let mut account_key = Zeroizing::new([0; 32]);
        entropy.fill(&mut *account_key);
        let wrapped_key = seal_account_key(&keys.wrapping, &id, &account_key, entropy);
        let company = if user.is_private { None } else { Some(self.company_key()?) };
        let drawn = draw(env, company)?;
        let wrapped = seal_vault(&account_key, &id, &drawn.vault, &drawn.secret, entropy);
        let (login_key, public_key) = (keys.login.public(), pair(&account_key).public());
        let (name, quota, is_admin) = (user.name.to_owned(), user.quota, user.is_admin);
        let kind = if user.is_private { "private" } else { "company" };
        self.0.call(move |admin| async move {
            let mut request = admin.add_user_request();
            let mut to = request.get().init_user();
            to.set_name(&name[..]);
            to.set_id(&id.0);
            to.set_login_key(&login_key);
            to.set_salt(&salt);
            to.set_memory_kib(cost.memory_kib);
            to.set_passes(cost.passes);
            to.set_lanes(cost.lanes);
            to.set_wrapped_key(&wrapped_key);
            to.set_quota(quota);
            to.set_is_admin(is_admin);
            to.set_public_key(&public_key.0);
            put_new(request.get().init_vault(), &drawn, [&name, kind, &name], &wrapped);
            request.send().promise.await.map(drop)
        })?;
        Ok(id)
    }

    /// What the company's recovery kit opens is wrapped to this.
    pub fn company_key(&self) -> Result<PublicKey, Problem> {
        let key = self.0.call(|admin| async move {
            let answer = admin.company_key_request().send().promise.await?;
            Ok(answer.get()?.get_public_key()?.to_vec())
        })?;
        usable(&key)
    }

    /// Machines from which an account logs in without its password.
    pub fn devices(&self, account: &str) -> Result<Vec<DeviceRow>, Problem> {
        let account = account.to_owned();
        self.0.call(move |admin| async move {
            let mut request = admin.devices_request();
            request.get().set_account(&account[..]);
            let answer = request.send().promise.await?;
            get_devices(answer.get()?.get_devices()?)
        })
    }

    /// Trusts a device of an account never again.
    pub fn revoke_device(&self, account: &str, device: AccountDeviceId) -> Result<(), Problem> {
        let account = account.to_owned();
        self.0.call(move |admin| async move {
            let mut request = admin.revoke_device_request();
            request.get().set_account(&account[..]);
            request.get().set_device(&device.0);
            request.send().promise.await.map(drop)
        })
    }

    /// All vaults, without what opens them.
    pub fn vaults(&self) -> Result<Vec<VaultOf>, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.vaults_request().send().promise.await?;
            let vaults = answer.get()?.get_vaults()?;
            vaults.iter().map(get_vault).collect()
        })
    }

    /// Somebody is no member of a vault any more.
    pub fn remove_member(&self, vault: VaultId, account: &str) -> Result<(), Problem> {
        let account = account.to_owned();
        self.0.call(move |admin| async move {
            let mut request = admin.remove_member_request();
            request.get().set_vault(&vault.0);
            request.get().set_account(&account[..]);
            request.send().promise.await.map(drop)
        })
    }

    /// All accounts, by name.
    pub fn users(&self) -> Result<Vec<UserRow>, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.users_request().send().promise.await?;
            let mut rows = Vec::new();
            for user in answer.get()?.get_users()? {
                rows.push(UserRow {
                    name: user.get_name()?.to_string()?,
                    quota: user.get_quota(),
                    used: user.get_used(),
                    disabled: user.get_disabled(),
                    is_admin: user.get_is_admin(),
                    devices: user.get_devices(),
                });
            }
            Ok(rows)
        })
    }

    /// Locks an account out, at once, or lets it in again.
    pub fn disable(&self, account: &str, on: bool) -> Result<(), Problem> {
        let account = account.to_owned();
        self.0.call(move |admin| async move {
            let mut request = admin.disable_user_request();
            request.get().set_account(&account[..]);
            request.get().set_on(on);
            request.send().promise.await.map(drop)
        })
    }

    /// Says how much an account may use; 0 for no limit.
    pub fn set_quota(&self, account: &str, bytes: u64) -> Result<(), Problem> {
        let account = account.to_owned();
        self.0.call(move |admin| async move {
            let mut request = admin.quota_request();
            request.get().set_account(&account[..]);
            request.get().set_bytes(bytes);
            request.send().promise.await.map(drop)
        })
    }

    /// A text with which a machine of this name may join once, for so many seconds.
    pub fn token(&self, name: &str, secs: u32, auto: bool) -> Result<Zeroizing<String>, Problem> {
        let name = name.to_owned();
        self.0.call(move |admin| async move {
            let mut request = admin.token_request();
            request.get().set_name(&name[..]);
            request.get().set_secs(secs);
            request.get().set_auto(auto);
            let answer = request.send().promise.await?;
            Ok(Zeroizing::new(answer.get()?.get_token()?.to_string()?))
        })
    }

    /// All machines that ever joined, in the order in which they did.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.nodes_request().send().promise.await?;
            let mut rows = Vec::new();
            for node in answer.get()?.get_nodes()? {
                rows.push(NodeRow {
                    name: node.get_name()?.to_string()?,
                    key: NodeKey(fixed(node.get_key()?, "a key")?),
                    status: node.get_status()?.to_string()?,
                    presence: node.get_presence()?.to_string()?,
                    granted: node.get_granted(),
                    used: node.get_used(),
                    free: node.get_free(),
                    frames: node.get_frames(),
                    draining: node.get_draining(),
                    last_seen: Some(Time(node.get_last_seen())).filter(|time| time.0 != 0),
                    version: node.get_version()?.to_string()?,
                    note: node.get_note()?.to_string()?,
                    address: node.get_address()?.to_string()?,
                    machine_id: MachineId(fixed(node.get_machine_id()?, "a machine id")?),
                    joined: Time(node.get_joined()),
                    proven: Some(Time(node.get_proven())).filter(|time| time.0 != 0),
                    on_their_way: node.get_on_their_way(),
                    hours_missed: node.get_hours_missed(),
                    given_up: node.get_given_up(),
                    failures: node.get_failures(),
                    rests_until: Some(Time(node.get_rests_until())).filter(|time| time.0 != 0),
                });
            }
            Ok(rows)
        })
    }

    /// Does something to a machine.
    pub fn change_node(&self, name: &str, change: NodeChange) -> Result<(), Problem> {
        let name = name.to_owned();
        self.0.call(move |admin| async move {
            match change {
                NodeChange::Approve => {
                    let mut request = admin.approve_request();
                    request.get().set_name(&name[..]);
                    request.send().promise.await.map(drop)
                }
                NodeChange::Revoke => {
                    let mut request = admin.revoke_request();
                    request.get().set_name(&name[..]);
                    request.send().promise.await.map(drop)
                }
                NodeChange::Forget { give_up_data } => {
                    let mut request = admin.forget_request();
                    request.get().set_name(&name[..]);
                    request.get().set_give_up_data(give_up_data);
                    request.send().promise.await.map(drop)
                }
                NodeChange::Drain(on) => {
                    let mut request = admin.drain_request();
                    request.get().set_name(&name[..]);
                    request.get().set_on(on);
                    request.send().promise.await.map(drop)
                }
            }
        })
    }

    /// How safe the vaults are.
    pub fn copies(&self) -> Result<Vec<VaultRow>, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.copies_request().send().promise.await?;
            let mut rows = Vec::new();
            for vault in answer.get()?.get_vaults()? {
                rows.push(VaultRow {
                    id: VaultId(fixed(vault.get_vault()?, "the id of a vault")?),
                    name: vault.get_name()?.to_string()?,
                    kind: vault.get_kind()?.to_string()?,
                    owner: vault.get_owner()?.to_string()?,
                    bytes: vault.get_bytes(),
                    owed_frames: vault.get_owed_frames(),
                    owed_bytes: vault.get_owed_bytes(),
                    why: vault.get_why()?.to_string()?,
                });
            }
            Ok(rows)
        })
    }

    /// Entries of the log from a sequence on.
    pub fn audit(&self, from: u64, count: u32) -> Result<Vec<AuditRow>, Problem> {
        self.0.call(move |admin| async move {
            let mut request = admin.audit_request();
            request.get().set_from(from);
            request.get().set_count(count);
            let answer = request.send().promise.await?;
            let mut rows = Vec::new();
            for entry in answer.get()?.get_entries()? {
                rows.push(AuditRow {
                    sequence: entry.get_sequence(),
                    time: Time(entry.get_time()),
                    actor: entry.get_actor()?.to_string()?,
                    what: entry.get_what()?.to_string()?,
                });
            }
            Ok(rows)
        })
    }

    /// Has everything verified that can be reached, and healed. Returns when it is done.
    pub fn scrub(&self) -> Result<ScrubRow, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.scrub_request().send().promise.await?;
            let report = answer.get()?.get_report()?;
            Ok(ScrubRow {
                frames: report.get_frames(),
                bytes: report.get_bytes(),
                bad: report.get_bad(),
                healed: report.get_healed(),
                machines: report.get_machines(),
                copies_bad: report.get_copies_bad(),
                silent: get_texts(report.get_silent()?)?,
            })
        })
    }

    /// Frees what nothing needs any more. Returns when it is done.
    pub fn collect(&self) -> Result<FreedRow, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.collect_request().send().promise.await?;
            let freed = answer.get()?;
            let problems = get_texts(freed.get_problems()?)?;
            Ok(FreedRow { bytes: freed.get_bytes(), frames: freed.get_frames(), copies: freed.get_copies(), problems })
        })
    }

    /// Gives up the terminals that are missing now.
    pub fn give_up(&self) -> Result<(), Problem> {
        self.0.call(|admin| async move { admin.give_up_request().send().promise.await.map(drop) })
    }

    /// Stops the host in order; machines are told that it is back after `secs`, if it is planned. Gives how many heard
    /// it, of how many that are there.
    pub fn stop(&self, secs: Option<u32>) -> Result<(u32, u32), Problem> {
        self.0.call(move |admin| async move {
            let mut request = admin.stop_request();
            request.get().set_planned(secs.is_some());
            request.get().set_secs(secs.unwrap_or(0));
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            Ok((answer.get_heard(), answer.get_there()))
        })
    }

    /// Says that the host's clock is right as it stands. Gives where it leapt from and to, if it did.
    pub fn clock_is_right(&self) -> Result<Option<(Time, Time)>, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.clock_is_right_request().send().promise.await?;
            let answer = answer.get()?;
            let (from, to) = (Time(answer.get_from()), Time(answer.get_to()));
            Ok((from != to).then_some((from, to)))
        })
    }

    /// How the host is.
    pub fn status(&self) -> Result<HostRow, Problem> {
        self.0.call(|admin| async move {
            let answer = admin.status_request().send().promise.await?;
            let status = answer.get()?.get_status()?;
            Ok(HostRow {
                name: status.get_name()?.to_string()?,
                address: status.get_address()?.to_string()?,
                generation: status.get_generation(),
                free: status.get_free(),
                total: status.get_total(),
                connections: status.get_connections(),
                vaults: status.get_vaults(),
                owed_frames: status.get_owed_frames(),
                question: status.get_question()?.to_string()?,
                reserve: status.get_reserve(),
                troubles: troubles(status)?,
            })
        })
    }
}

fn troubles(status: host_status::Reader<'_>) -> Result<Vec<TroubleRow>, capnp::Error> {
    let row = |trouble: trouble::Reader<'_>| {
        Ok(TroubleRow {
            about: trouble.get_about()?.to_string()?,
            is_serious: trouble.get_serious(),
            text: trouble.get_text()?.to_string()?,
        })
    };
    status.get_troubles()?.iter().map(row).collect()
}
