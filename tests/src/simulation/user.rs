//! Somebody at a PC: logs in, backs up, asks how safe it is, reads back. Everything by the calls of the protocol, on the
//! one thread of the simulation.

mod history;

pub use history::fulfil;

use super::pc::Pc;
use super::world::{User, World};
use crate::weave::Node;
use capnp::Error;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use twinkeep_engine::crypto::{DataKey, Salts, Suite, wrap};
use twinkeep_engine::env::{Dice, Env};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, Sealer};
use twinkeep_engine::id::{ChunkId, FrameId, Kind, SessionId};
use twinkeep_engine::record::{Level, Record, RecordKind, RefKind, RefRecord};
use twinkeep_nodes::remote::wire::{get_link, put_link};
use twinkeep_nodes::tracker::login::Challenge;
use twinkeep_nodes::transport::ids::{fixed, join, split};
use twinkeep_nodes::transport::problem::Problem;
use twinkeep_schema::office_capnp::{keeper, local, upload, user_session, vault, write_session};

/// Rounds of settling before a backup gives up.
const SETTLES_MAX: usize = 8;

/// Lives at a PC for as long as it runs.
pub async fn live(world: Rc<World>, pc: Rc<Pc>, user: Rc<User>, local: local::Client, env: Env) {
    let mut seed = [0; 8];
    env.entropy.fill(&mut seed);
    let mut dice = Dice(u64::from_le_bytes(seed));
    loop {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(15_000) as u64)).await;
        if world.is_calm.get() {
            return;
        }
        // Some lose patience.
        let patience = Duration::from_millis(if dice.one_in(4) { dice.below(5_000) as u64 } else { 120_000 });
        let run = Run { world: &world, pc: &pc, user: &user, env: &env };
        match tokio::time::timeout(patience, run.once(&local, &mut dice)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let problem = Problem::from(&error);
                world.oracle.borrow_mut().failed(problem.why);
                world.note(&user.name, format_args!("{:?}: {}", problem.why, problem.text));
            }
            Err(_) => world.note(&user.name, "gave up waiting"),
        }
    }
}

struct Run<'a> {
    world: &'a Rc<World>,
    pc: &'a Pc,
    user: &'a User,
    env: &'a Env,
}

/// Where frames go while they are made.
struct Sink<'a> {
    world: &'a World,
    session: write_session::Client,
    upload: upload::Client,
    keeper: Option<(keeper::Client, upload::Client)>,
    sealer: Sealer,
    frames: Vec<FrameId>,
}

impl Run<'_> {
    async fn once(&self, local: &local::Client, dice: &mut Dice) -> Result<(), Error> {
        let session = self.log_in(local).await?;
        let mut request = session.open_request();
        request.get().set_vault(&self.user.vault.0);
        let vault = request.send().promise.await?.get()?.get_vault()?;
        if dice.one_in(5) {
            self.read_back(&vault, dice).await?;
        }
        if self.world.habits.forget {
            for _ in 0..dice.below(4) {
                self.alter(&vault, dice).await?;
            }
        }
        for _ in 0..1 + dice.below(3) {
            let height = 1 + dice.below(3);
            // Of what nobody else has something is left over when it is forgotten.
            let alphabet = if self.world.habits.forget && dice.one_in(2) { 1 << 30 } else { 40 };
            let root = Node::random(&self.user.keys, dice, alphabet, height);
            self.backup(local, &vault, root, dice).await?;
            self.ask_level(&vault).await?;
        }
        Ok(())
    }

    async fn log_in(&self, local: &local::Client) -> Result<user_session::Client, Error> {
        let answer = local.tracker_request().send().promise.await?;
        let bootstrap = answer.get()?.get_bootstrap()?;
        let mut request = bootstrap.login_request();
        request.get().set_account(&self.user.name[..]);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        let challenge: [u8; 32] = fixed(answer.get_challenge()?, "a challenge")?;
        let (node, host) = (self.pc.key(), self.world.host_key());
        let challenge = Challenge { challenge: &challenge, name: &self.user.name, node: &node, host: &host };
        let mut request = answer.get_login()?.prove_request();
        request.get().set_signature(&challenge.prove(&self.user.login_key()));
        request.send().promise.await?.get()?.get_session()
    }

    async fn keeper(&self, local: &local::Client) -> Option<(keeper::Client, upload::Client)> {
        let mut request = local.keep_request();
        request.get().set_vault(&self.user.vault.0);
        let keeper = request.send().promise.await.ok()?.get().ok()?.get_keeper().ok()?;
        let upload = keeper.upload_request().send().promise.await.ok()?.get().ok()?.get_upload().ok()?;
        Some((keeper, upload))
    }

    fn sealer(&self, session: SessionId) -> std::io::Result<Sealer> {
        let entropy = self.env.entropy.clone();
        let data_key = DataKey::random(&*entropy);
        let (generation, public) = self.user.keys.newest();
        let vault = self.user.vault;
        let keys = SealKeys {
            suite: Suite::Aes256Gcm,
            wrapped: wrap::wrap(public, &data_key, &vault, &*entropy),
            data_key: Arc::new(data_key),
            generation,
            vault,
            session,
        };
        Sealer::new(keys, Salts::new(entropy), 1)
    }

    async fn backup(
        &self,
        local: &local::Client,
        vault: &vault::Client,
        root: Arc<Node>,
        dice: &mut Dice,
    ) -> Result<(), Error> {
        let life = self.world.oracle.borrow().life;
        let answer = vault.begin_request().send().promise.await?;
        let answer = answer.get()?;
        let (session, id) = (answer.get_session()?, SessionId(fixed(answer.get_id()?, "the id of a session")?));
        let upload = session.upload_request().send().promise.await?.get()?.get_upload()?;
        let keeper = if dice.one_in(4) { None } else { self.keeper(local).await };
        let sealer = self.sealer(id).map_err(|error| Error::failed(error.to_string()))?;
        let mut sink = Sink { world: self.world, session, upload, keeper, sealer, frames: Vec::new() };
        let mut all = HashMap::new();
        root.gather(&mut all);
        // Lowest first, and in an order that does not hang on the table's.
        let all: BTreeMap<(usize, ChunkId), Arc<Node>> =
            all.into_values().map(|(node, height)| ((height, node.id), node)).collect();
        let mut wanted: Vec<&Arc<Node>> = all.values().collect();
        for _ in 0..SETTLES_MAX {
            sink.put(&wanted, dice).await?;
            if dice.one_in(6) {
                sink.session.checkpoint_request().send().promise.await?;
            }
            if dice.one_in(2) {
                sink.keep().await;
            }
            let mut request = sink.session.settle_request();
            request.get().set_root(&root.id.0);
            let missing = split::<ChunkId>(request.send().promise.await?.get()?.get_missing()?)?;
            if missing.is_empty() {
                self.world.oracle.borrow_mut().settled(self.user, life, &root, &sink.frames);
                sink.keep().await;
                return self.publish(vault, &sink.session, (id, life), &root).await;
            }
            wanted = all.values().filter(|node| missing.contains(&node.id)).collect();
            if wanted.len() < missing.len() {
                return Err(Error::failed("something is missing that is not below the root".to_owned()));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(Error::failed("it never settles".to_owned()))
    }

    async fn publish(
        &self,
        vault: &vault::Client,
        session: &write_session::Client,
        (id, life): (SessionId, usize),
        root: &Arc<Node>,
    ) -> Result<(), Error> {
        self.world.oracle.borrow_mut().publishing(self.user, root);
        for _ in 0..4 {
            let link = get_link(vault.link_request().send().promise.await?.get()?.get_link()?)?;
            let received = link.received.unwrap_or_default();
            let reference = RefRecord {
                kind: RefKind::Snapshot,
                target: root.id,
                session: id,
                level: Level::P0,
                session_started: received,
                device: None,
            };
            let record = Record {
                kind: RecordKind::Ref,
                vault: self.user.vault,
                count: link.count,
                received,
                previous: link.previous,
                payload: reference.encode(),
            };
            let record = record.encode(&|bytes| self.user.keys.record_mac(bytes));
            let mut request = session.publish_request();
            request.get().set_root(&root.id.0);
            put_link(&link, received, request.get().init_link());
            request.get().set_record(&record);
            if request.send().promise.await?.get()?.get_taken() {
                self.world.oracle.borrow_mut().heard(self.user, life, root);
                self.world.oracle.borrow_mut().published(self.user, life, root, link.count);
                self.world.note(&self.user.name, format_args!("published {} as {}", root.id, link.count));
                return Ok(());
            }
        }
        self.world.oracle.borrow_mut().heard(self.user, life, root);
        Err(Error::failed("others are always faster".to_owned()))
    }

    async fn ask_level(&self, vault: &vault::Client) -> Result<(), Error> {
        let before = self.world.oracle.borrow().frames_of(self.user);
        let mut request = vault.copies_request();
        request.get().set_frame(u64::MAX);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        let (level, owed) = (answer.get_level(), answer.get_owed());
        self.world.note(&self.user.name, format_args!("level {level}, {owed} owed"));
        if level == 2 {
            let mut oracle = self.world.oracle.borrow_mut();
            oracle.levels += 1;
            oracle.check_level(self.world, self.user, &before);
        }
        Ok(())
    }

    /// A root that was published is whole at the host, and its frame is what was put.
    async fn read_back(&self, vault: &vault::Client, dice: &mut Dice) -> Result<(), Error> {
        let (roots, life) = (self.world.oracle.borrow().roots_of(self.user), self.world.oracle.borrow().life);
        let Some(root) = roots.get(dice.below(roots.len())).cloned() else { return Ok(()) };
        let mut request = vault.whole_request();
        request.get().set_ids(&root.id.0);
        let answer = request.send().promise.await?;
        // One that has lost its disk since is not who has said so, and of one whose disk rots it may be true.
        let must_have_it = {
            let oracle = self.world.oracle.borrow();
            oracle.life == life && !oracle.has_rotted() && oracle.must_have(self.user, &root.id)
        };
        if answer.get()?.get_answers()? != [1] {
            if must_have_it {
                let text = format!("the host does not have {} whole, which it has published", root.id);
                self.world.oracle.borrow_mut().wrong(text);
            }
            return Ok(());
        }
        let mut all = HashMap::new();
        root.gather(&mut all);
        let ids: Vec<ChunkId> = all.into_keys().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        let mut request = vault.places_request();
        request.get().set_ids(&join(&ids));
        let answer = request.send().promise.await?;
        let places = answer.get()?.get_places()?;
        let place = places.get(dice.below(ids.len()) as u32);
        let mut request = vault.read_frame_request();
        request.get().set_place(place)?;
        let read = request.send().promise.await?;
        let bytes = read.get()?.get_bytes()?;
        if twinkeep_engine::frame::frame_id(bytes).0 != place.get_frame()? {
            if !self.world.oracle.borrow().has_rotted() {
                self.world.oracle.borrow_mut().wrong(format!("a frame of {} is read wrong", root.id));
            }
            let mut request = vault.expel_request();
            request.get().init_frames(1).set_with_caveats(0, place)?;
            let lost = request.send().promise.await?.get()?.get_ids()?.len() / 32;
            self.world.note(&self.user.name, format_args!("{lost} chunks are damaged"));
            return Ok(());
        }
        self.world.note(&self.user.name, "read back");
        Ok(())
    }
}

impl Sink<'_> {
    /// Claims what is wanted, and puts what is ours.
    async fn put(&mut self, wanted: &[&Arc<Node>], dice: &mut Dice) -> Result<(), Error> {
        let ids: Vec<ChunkId> = wanted.iter().map(|node| node.id).collect();
        let mut request = self.session.claim_request();
        request.get().set_ids(&join(&ids));
        let answer = request.send().promise.await?;
        let claims = answer.get()?.get_claims()?.to_vec();
        let per_frame = 1 + dice.below(8);
        let mut builder = FrameBuilder::new(Kind::Leaf);
        let (mut kind, mut waiting) = (Kind::Leaf, 0);
        for (node, claim) in wanted.iter().zip(claims) {
            if claim != 2 {
                continue;
            }
            let its = if node.children.is_some() { Kind::Branch } else { Kind::Leaf };
            if waiting > 0 && (waiting >= per_frame || its != kind) {
                self.send(&mut builder).await?;
                waiting = 0;
            }
            if its != kind {
                (builder, kind) = (FrameBuilder::new(its), its);
            }
            let refs: Vec<ChunkId> = node.children.iter().flatten().map(|child| child.id).collect();
            builder.push(node.id, &refs, &node.payload);
            waiting += 1;
        }
        if waiting > 0 {
            self.send(&mut builder).await?;
        }
        let answer = self.upload.done_request().send().promise.await?;
        let problem = answer.get()?.get_problem()?.to_string()?;
        if problem.is_empty() { Ok(()) } else { Err(Error::failed(problem)) }
    }

    async fn send(&mut self, builder: &mut FrameBuilder) -> Result<(), Error> {
        let frame = self.sealer.seal(builder);
        self.frames.push(frame.id);
        self.world.oracle.borrow_mut().make(frame.id, frame.header.ids.clone());
        let mut request = self.upload.put_request();
        request.get().set_frame(&frame.bytes);
        request.send().await?;
        if let Some((_, upload)) = &self.keeper {
            let mut request = upload.put_request();
            request.get().set_frame(&frame.bytes);
            if request.send().await.is_err() {
                self.keeper = None;
            }
        }
        Ok(())
    }

    /// The copy that stays here; what becomes of it does not end a backup.
    async fn keep(&mut self) {
        let Some((keeper, upload)) = &self.keeper else { return };
        let done = upload.done_request().send().promise.await;
        let settled = keeper.settle_request().send().promise.await;
        if done.is_err() || settled.is_err() {
            self.keeper = None;
        }
    }
}
