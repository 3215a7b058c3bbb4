//! The registry against one that keeps the list of what happened and looks everything up in it.

use twinkeep_engine::env::Dice;

use super::*;
use crate::tracker::event::tests::login;
use crate::tracker::event::{AuditKind, Event};
use crate::tracker::limits::{MEMBER_OF_MAX, OWNED_MAX};
use crate::tracker::log::{Actor, Entry};

/// What happened, and nothing else.
#[derive(Default)]
struct Plain(Vec<Entry>);

impl Plain {
    fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.0.iter().map(|entry| &entry.event)
    }

    fn any(&self, is: impl Fn(&Event) -> bool) -> bool {
        self.events().any(is)
    }

    fn status(&self, of: &NodeKey) -> Option<NodeStatus> {
        let mut status = None;
        for event in self.events() {
            match event {
                Event::NodeJoined { key, pending: true, .. } if key == of => status = Some(NodeStatus::Pending),
                Event::NodeJoined { key, .. } | Event::NodeApproved { key } if key == of => {
                    status = Some(NodeStatus::Active);
                }
                Event::NodeForgotten { key } if key == of => status = Some(NodeStatus::Forgotten),
                _ => {}
            }
        }
        let revoked = self.any(|event| matches!(event, Event::NodeRevoked { key } if key == of));
        if revoked { Some(NodeStatus::Revoked) } else { status }
    }

    fn is_live(&self, key: &NodeKey) -> bool {
        matches!(self.status(key), Some(NodeStatus::Pending | NodeStatus::Active))
    }

    fn is_active(&self, key: &NodeKey) -> bool {
        self.status(key) == Some(NodeStatus::Active)
    }

    fn has_live_name(&self, wanted: &str) -> bool {
        self.any(|event| {
            matches!(event, Event::NodeJoined { name, key, .. }
                if name.eq_ignore_ascii_case(wanted) && self.is_live(key))
        })
    }

    fn has_account(&self, of: &AccountId) -> bool {
        self.any(|event| matches!(event, Event::AccountMade { id, .. } if id == of))
    }

    fn is_disabled(&self, of: &AccountId) -> bool {
        let last = self.events().rev().find_map(|event| match event {
            Event::AccountDisabled { id, on } if id == of => Some(*on),
            _ => None,
        });
        last.unwrap_or(false)
    }

    fn made(&self, of: &VaultId) -> Option<(AccountId, VaultKind)> {
        self.events().find_map(|event| match event {
            Event::VaultMade { vault, owner, kind, .. } if vault == of => Some((*owner, *kind)),
            _ => None,
        })
    }

    fn is_member(&self, of: &VaultId, who: &AccountId) -> bool {
        let last = self.events().rev().find_map(|event| match event {
            Event::VaultMember { vault, account, on, .. } if vault == of && account == who => Some(*on),
            _ => None,
        });
        last.unwrap_or(false)
    }

    /// The parts of a step, each as an entry of its own.
    fn parts(entry: &Entry) -> Vec<Entry> {
        match &entry.event {
            Event::Together(parts) => {
                parts.iter().map(|event| Entry { event: event.clone(), ..entry.clone() }).collect()
            }
            _ => vec![entry.clone()],
        }
    }

    /// Whether it can be; if so it has happened.
    fn takes(&mut self, entry: &Entry) -> bool {
        let acts = matches!(entry.event, Event::Audit { .. }) || self.acts(&entry.actor);
        let before = self.0.len();
        for part in Self::parts(entry) {
            if !acts || !self.can_be(&part) {
                self.0.truncate(before);
                return false;
            }
            self.0.push(part);
        }
        true
    }

    fn acts(&self, actor: &Actor) -> bool {
        match actor {
            Actor::Host => true,
            Actor::Node(key) => self.is_live(key),
            Actor::Account(id) => self.has_account(id) && !self.is_disabled(id),
        }
    }

    fn can_be(&self, entry: &Entry) -> bool {
        match &entry.event {
            Event::NodeTokenMade { token_hash: hash, .. } => {
                !self.any(|event| matches!(event, Event::NodeTokenMade { token_hash, .. } if token_hash == hash))
            }
            Event::NodeJoined { name: new_name, key: new, token_hash: hash, pending, .. } => {
                let fits = |event: &Event| {
                    matches!(event, Event::NodeTokenMade { name, token_hash, expires, auto }
                        if token_hash == hash && name == new_name && entry.time < *expires && (*auto || *pending))
                };
                let spent = |event: &Event| matches!(event, Event::NodeJoined { key, token_hash, .. } if token_hash == hash || key == new);
                self.any(fits) && !self.any(spent) && !self.has_live_name(new_name)
            }
            Event::NodeApproved { key } => self.status(key) == Some(NodeStatus::Pending),
            Event::NodeRevoked { key } => !matches!(self.status(key), None | Some(NodeStatus::Revoked)),
            Event::NodeForgotten { key } => self.is_live(key),
            Event::NodeDraining { key, .. } | Event::NodeGrant { key, .. } | Event::StandbyAppointed { key, .. } => {
                self.is_active(key)
            }
            Event::AccountMade { id: new, name: new_name, .. } => !self.any(|event| {
                matches!(event, Event::AccountMade { id, name, .. }
                    if id == new || name.eq_ignore_ascii_case(new_name))
            }),
            Event::AccountPassword { id, .. } | Event::AccountDisabled { id, .. } | Event::AccountQuota { id, .. } => {
                self.has_account(id)
            }
            Event::DeviceAdded { account, device: new, key: new_key, .. } => {
                let used = |event: &Event| matches!(event, Event::DeviceAdded { device, key, .. } if device == new || key == new_key);
                self.has_account(account) && !self.any(used)
            }
            Event::DeviceRevoked { account: of, device: id } => {
                let added = |event: &Event| matches!(event, Event::DeviceAdded { account, device, .. } if account == of && device == id);
                let is_trusted = self.events().rev().find_map(|event| match event {
                    Event::DeviceRevoked { device, .. } if device == id => Some(false),
                    Event::DevicesRevoked { account } if account == of => Some(false),
                    Event::DeviceAdded { device, .. } if device == id => Some(true),
                    _ => None,
                });
                self.any(added) && is_trusted == Some(true)
            }
            Event::DevicesRevoked { account: id } | Event::AccountKey { id, .. } => self.has_account(id),
            Event::Together(_) => false,
            Event::VaultMade { vault, owner: of, name: new_name, kind, company_wrap } => {
                let same = |event: &Event| {
                    matches!(event, Event::VaultMade { owner, name, .. }
                        if owner == of && name.eq_ignore_ascii_case(new_name))
                };
                let wrap = match kind {
                    VaultKind::Company => !company_wrap.is_empty(),
                    VaultKind::Private => company_wrap.is_empty(),
                    VaultKind::Shared => true,
                };
                wrap && self.has_account(of) && self.made(vault).is_none() && !self.any(same)
            }
            Event::VaultMember { vault, account, on, wrapped } => {
                let Some((owner, kind)) = self.made(vault) else { return false };
                let is_owner = owner == *account;
                self.has_account(account)
                    && *on != wrapped.is_empty()
                    && (is_owner || kind != VaultKind::Private)
                    && (*on || (!is_owner && self.is_member(vault, account)))
            }
            Event::Audit { .. } => true,
        }
    }

    /// Everything the two can be asked is the same.
    fn compare(&self, registry: &Registry, told: &str) {
        for byte in 0..KEYS {
            let key = NodeKey([byte; 32]);
            let node = registry.node(&key);
            assert_eq!(node.map(|node| node.status), self.status(&key), "{told}");
            assert_eq!(registry.is_revoked(&key), self.status(&key) == Some(NodeStatus::Revoked), "{told}");
            let Some(node) = node else { continue };
            let by_name = registry.node_by_name(&node.name.to_uppercase()).is_some_and(|found| found.key == key);
            assert_eq!(by_name, self.is_live(&key), "{told}");
            let grant = self.events().rev().find_map(|event| match event {
                Event::NodeGrant { key: of, bytes } if *of == key => Some(*bytes),
                _ => None,
            });
            assert_eq!(node.grant, grant.unwrap_or(0), "{told}");
            assert!(!node.standby || self.is_active(&key), "{told}");
        }
        for byte in 0..IDS {
            let id = AccountId([byte; 16]);
            let account = registry.account(&id);
            assert_eq!(account.is_some(), self.has_account(&id), "{told}");
            assert_eq!(account.is_some_and(|account| account.disabled), self.is_disabled(&id), "{told}");
            if let Some(account) = account {
                assert_eq!(registry.account_by_name(&account.name.to_uppercase()), Some(account), "{told}");
            }
            let mine: Vec<_> = registry.vaults_of(&id).map(|vault| vault.id).collect();
            let expected: Vec<_> = (0..IDS).map(|byte| VaultId([byte; 16])).collect();
            let is_mine =
                |vault: &VaultId| self.made(vault).is_some_and(|(owner, _)| owner == id) || self.is_member(vault, &id);
            assert_eq!(mine, expected.into_iter().filter(is_mine).collect::<Vec<_>>(), "{told}");
        }
    }
}

const KEYS: u8 = 6;
const IDS: u8 = 4;

/// Some event in a world so small that most things collide.
fn some_event(dice: &mut Dice) -> Event {
    let key = NodeKey([dice.below(KEYS.into()) as u8; 32]);
    let id = AccountId([dice.below(IDS.into()) as u8; 16]);
    let vault = VaultId([dice.below(IDS.into()) as u8; 16]);
    let device = AccountDeviceId([dice.below(IDS.into()) as u8; 16]);
    let name = ["pc", "PC", "anna", "bert"][dice.below(4)].to_owned();
    let token_hash = [dice.below(6) as u8; 32];
    let on = dice.one_in(2);
    let wrapped = vec![7; if dice.one_in(4) == on { 0 } else { 9 }];
    let kind = [VaultKind::Company, VaultKind::Private, VaultKind::Shared][dice.below(3)];
    match dice.below(24) {
        0..3 => Event::NodeTokenMade { name, token_hash, expires: Time(dice.below(400) as i64), auto: on },
        3..8 => Event::NodeJoined { name, key, machine_id: MachineId([1; 16]), token_hash, pending: dice.one_in(2) },
        8 => Event::NodeApproved { key },
        9 if on => Event::NodeRevoked { key },
        9 | 10 if dice.one_in(2) => Event::NodeForgotten { key },
        9 | 10 => Event::NodeDraining { key, on },
        11 => Event::NodeGrant { key, bytes: dice.throw() },
        12 => Event::StandbyAppointed { key, on },
        13 => Event::AccountMade { id, name, login: login(3), quota: 1, is_admin: on },
        14 => Event::AccountPassword { id, login: login(4) },
        15 => Event::AccountDisabled { id, on },
        16 => Event::AccountQuota { id, bytes: 5 },
        17 => Event::DeviceAdded { account: id, device, label: name, key: [dice.below(5) as u8; 32] },
        18 => Event::DeviceRevoked { account: id, device },
        19 => Event::VaultMade { vault, owner: id, name, kind, company_wrap: wrapped },
        20 => Event::VaultMember { vault, account: id, on, wrapped },
        21 => Event::DevicesRevoked { account: id },
        22 => Event::AccountKey { id, key: [7; 32] },
        _ => Event::Audit { kind: AuditKind::Other, account: None, node: None, text: name },
    }
}

/// One of them, or several in one step.
fn some_step(dice: &mut Dice) -> Event {
    match dice.one_in(8) {
        true => Event::Together((0..1 + dice.below(4)).map(|_| some_event(dice)).collect()),
        false => some_event(dice),
    }
}

fn some_actor(dice: &mut Dice) -> Actor {
    match dice.below(4) {
        0 => Actor::Node(NodeKey([dice.below(KEYS.into()) as u8; 32])),
        1 => Actor::Account(AccountId([dice.below(IDS.into()) as u8; 16])),
        _ => Actor::Host,
    }
}

#[test]
fn does_what_the_plain_one_does() {
    let (mut seen, mut steps) = ([0; 2], 0);
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let (mut plain, mut happened) = (Plain::default(), Vec::new());
        let mut registry = Registry::new();
        for step in 0..300 {
            let entry = Entry {
                generation: 1,
                sequence: registry.sequence() + 1,
                time: Time(step),
                actor: some_actor(&mut dice),
                previous: [0; 32],
                event: some_step(&mut dice),
            };
            let told = format!("seed {seed}, step {step}: {entry:?}");
            let before = registry.clone();
            let result = registry.apply(&entry);
            assert_eq!(result.is_ok(), plain.takes(&entry), "{told}: {result:?}");
            seen[usize::from(result.is_ok())] += 1;
            steps += usize::from(result.is_ok() && matches!(&entry.event, Event::Together(parts) if parts.len() > 1));
            match result {
                Ok(()) => happened.push(entry),
                Err(_) => assert_eq!(registry, before, "{told}: changed though it was refused"),
            }
            plain.compare(&registry, &told);
        }
        let mut again = Registry::new();
        happened.iter().for_each(|entry| again.apply(entry).unwrap());
        assert_eq!(again, registry, "seed {seed}: replayed");
    }
    assert!(seen.iter().all(|&count| count > 2000) && steps > 25, "both happen: {seen:?}, {steps} of several");
}

/// A registry to which this happened.
fn after(events: Vec<Event>) -> Registry {
    let mut registry = Registry::new();
    events.into_iter().for_each(|event| next(&mut registry, 10, event).unwrap());
    registry
}

fn next(registry: &mut Registry, time: i64, event: Event) -> Result<(), RegistryError> {
    let sequence = registry.sequence() + 1;
    let entry = Entry { generation: 1, sequence, time: Time(time), actor: Actor::Host, previous: [0; 32], event };
    registry.apply(&entry)
}

fn token(name: &str, byte: u8) -> Event {
    Event::NodeTokenMade { name: name.into(), token_hash: [byte; 32], expires: Time(100), auto: false }
}

fn join(name: &str, key: u8, token: u8) -> Event {
    let (key, machine_id) = (NodeKey([key; 32]), MachineId([1; 16]));
    Event::NodeJoined { name: name.into(), key, machine_id, token_hash: [token; 32], pending: true }
}

#[test]
fn an_account_has_so_many_vaults_and_no_more() {
    let id = |byte: usize| AccountId([byte as u8; 16]);
    let vault = |number: usize| VaultId(std::array::from_fn(|at| if at < 8 { (number >> (8 * at)) as u8 } else { 0 }));
    let made = |number: usize, owner| Event::VaultMade {
        vault: vault(number),
        owner,
        name: format!("v{number}"),
        kind: VaultKind::Shared,
        company_wrap: Vec::new(),
    };
    let account = |byte: usize| Event::AccountMade {
        id: id(byte),
        name: format!("a{byte}"),
        login: login(1),
        quota: 0,
        is_admin: false,
    };
    let mut registry = after((0..10).map(account).collect());
    for number in 0..OWNED_MAX * 9 {
        next(&mut registry, 10, made(number, id(number / OWNED_MAX))).unwrap();
    }
    let error = next(&mut registry, 10, made(9999, id(0))).unwrap_err().to_string();
    assert!(error.contains("32 vaults"), "{error}");
    let joins = |number| Event::VaultMember { vault: vault(number), account: id(9), on: true, wrapped: vec![1; 72] };
    (0..MEMBER_OF_MAX).for_each(|number| next(&mut registry, 10, joins(number)).unwrap());
    let error = next(&mut registry, 10, joins(MEMBER_OF_MAX)).unwrap_err().to_string();
    assert!(error.contains("256 vaults"), "{error}");
    // What it has it can be given anew.
    next(&mut registry, 10, joins(3)).unwrap();
    let leaves = Event::VaultMember { vault: vault(3), account: id(9), on: false, wrapped: vec![] };
    next(&mut registry, 10, leaves).unwrap();
    next(&mut registry, 10, joins(MEMBER_OF_MAX)).unwrap();
}

#[test]
fn a_revoked_key_never_comes_back() {
    let key = NodeKey([1; 32]);
    let mut registry = after(vec![token("pc", 1), join("pc", 1, 1), token("pc", 2), token("pc", 3)]);
    next(&mut registry, 10, Event::NodeApproved { key }).unwrap();
    next(&mut registry, 10, Event::StandbyAppointed { key, on: true }).unwrap();
    next(&mut registry, 10, Event::NodeRevoked { key }).unwrap();
    assert!(registry.is_revoked(&key) && !registry.node(&key).unwrap().standby);
    for event in [
        Event::NodeApproved { key },
        Event::NodeRevoked { key },
        Event::NodeForgotten { key },
        Event::NodeGrant { key, bytes: 1 },
        Event::StandbyAppointed { key, on: true },
    ] {
        let error = next(&mut registry, 10, event).unwrap_err().to_string();
        assert!(error.contains("is revoked, expected"), "{error}");
    }
    let error = next(&mut registry, 10, join("pc", 1, 2)).unwrap_err();
    assert!(matches!(error, RegistryError::Taken { what: "key of a machine", .. }));
    // The machine itself may come back with a new key, under its name.
    next(&mut registry, 10, join("pc", 2, 2)).unwrap();
    assert_eq!(registry.node_by_name("PC").unwrap().number, 2);
    assert!(registry.is_revoked(&key));
}

#[test]
fn tokens_serve_once_in_time_and_for_their_name() {
    let mut registry = after(vec![token("pc", 1), token("other", 2), token("third", 3)]);
    assert!(matches!(next(&mut registry, 100, join("pc", 1, 1)), Err(RegistryError::Expired { .. })));
    assert!(matches!(next(&mut registry, 10, join("pc", 1, 2)), Err(RegistryError::Contradiction(_))));
    assert!(matches!(next(&mut registry, 10, join("pc", 1, 9)), Err(RegistryError::Unknown { .. })));
    next(&mut registry, 99, join("pc", 1, 1)).unwrap();
    assert!(registry.token(&[1; 32]).unwrap().is_spent);
    assert!(matches!(next(&mut registry, 10, join("pc", 2, 1)), Err(RegistryError::Spent { .. })));
    assert!(matches!(next(&mut registry, 10, token("new", 1)), Err(RegistryError::Taken { .. })));
    assert!(matches!(next(&mut registry, 10, token("a b", 5)), Err(RegistryError::Name(_))));
}

#[test]
fn entries_come_in_order() {
    let mut registry = Registry::new();
    let event = Event::Audit { kind: AuditKind::Other, account: None, node: None, text: String::new() };
    let mut try_at = |generation, sequence| {
        let (actor, event) = (Actor::Host, event.clone());
        registry.apply(&Entry { generation, sequence, time: Time(0), actor, previous: [0; 32], event })
    };
    assert!(try_at(1, 2).is_err() && try_at(1, 0).is_err() && try_at(0, 1).is_err());
    try_at(3, 1).unwrap();
    assert!(try_at(2, 2).is_err() && try_at(3, 1).is_err());
    try_at(4, 2).unwrap();
    assert_eq!((registry.generation(), registry.sequence()), (4, 2));
}
