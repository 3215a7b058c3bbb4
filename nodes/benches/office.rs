//! What the lines of an office cost: frames put and read through TLS and RPC on loopback, straight and through the
//! service of a terminal, beside the same on the local store and beside TLS alone; and look-ups.
//!
//! `TWINKEEP_BENCH_MB` says how much is put and read, 512 MB by default. One line a figure, the best of three rounds.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::LocalSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use twinkeep_engine::crypto::{DataKey, Salts, Suite, WRAPPED_LEN, WrappedKey};
use twinkeep_engine::env::{Dice, Env};
use twinkeep_engine::frame::{FrameBuilder, SealKeys, SealedFrame, Sealer, frame_id};
use twinkeep_engine::id::{ChunkId, Kind, SessionId, VaultId};
use twinkeep_engine::index::FrameNumber;
use twinkeep_engine::store::{Place, Session, Store};
use twinkeep_nodes::host::ground::Folder;
use twinkeep_nodes::host::setup::{self, HostOptions};
use twinkeep_nodes::host::{Host, run};
use twinkeep_nodes::remote::admin::NewUser;
use twinkeep_nodes::remote::office::{OfficeLine, Proof};
use twinkeep_nodes::tracker::sign::SigningKey;
use twinkeep_nodes::transport::keys::node_key;
use twinkeep_nodes::transport::tls;
use twinkeep_nodes::work::Work;

const ROUNDS: usize = 3;
const CHUNK_LEN: usize = 256 << 10;
const CHUNKS: usize = 7;

fn frames(session: SessionId, vault: VaultId, count: usize, dice: &mut Dice) -> Vec<SealedFrame> {
    let env = Env::system(1);
    let keys = SealKeys {
        suite: Suite::fastest(),
        data_key: Arc::new(DataKey::random(&*env.entropy)),
        wrapped: WrappedKey([0; WRAPPED_LEN]),
        generation: 0,
        vault,
        session,
    };
    let mut sealer = Sealer::new(keys, Salts::new(env.entropy.clone()), 1).unwrap();
    let mut builder = FrameBuilder::new(Kind::Leaf);
    let mut chunk = vec![0; CHUNK_LEN];
    let mut made = Vec::new();
    for _ in 0..count {
        for _ in 0..CHUNKS {
            dice.fill(&mut chunk);
            let mut id = [0; 32];
            dice.fill(&mut id);
            builder.push(ChunkId(id), &[], &chunk);
        }
        made.push(sealer.seal(&mut builder));
    }
    made
}

/// Bytes a second of the fastest round.
fn best(mut round: impl FnMut() -> u64) -> f64 {
    let rate = |_| {
        let begun = Instant::now();
        let bytes = round();
        bytes as f64 / begun.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(rate).fold(0.0, f64::max)
}

fn put_all(session: &dyn Session, frames: Vec<SealedFrame>) -> u64 {
    let bytes = frames.iter().map(|frame| frame.bytes.len() as u64).sum();
    frames.into_iter().for_each(|frame| session.put(frame).unwrap());
    session.checkpoint().unwrap();
    bytes
}

/// On two threads, as a restore does.
fn read_all(store: &dyn Store) -> u64 {
    let mut places = Vec::new();
    while let Some(last) = {
        let from = places.last().map_or(0, |last: &Place| last.number.0 + 1);
        let more = store.frames(FrameNumber(from), 64).unwrap();
        places.extend(more.iter().copied());
        more.last().copied()
    } {
        assert_eq!(Some(last.number), places.last().map(|place| place.number));
    }
    let read = |places: &[Place]| {
        let mut bytes = Vec::new();
        for place in places {
            store.read_frame(place, &mut bytes).unwrap();
            assert_eq!(bytes.len(), place.len as usize);
        }
        places.iter().map(|place| u64::from(place.len)).sum::<u64>()
    };
    let (left, right) = places.split_at(places.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| read(right));
        read(left) + other.join().unwrap()
    })
}

/// TLS alone: one side writes, the other reads, each on a thread of its own.
fn raw_tls(bytes: u64) -> f64 {
    let (server, client) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
    let expected = node_key(&server);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    best(|| {
        let (address, addressed) = std::sync::mpsc::channel();
        let config = tls::server(&server);
        let reading = std::thread::spawn(move || {
            runtime().block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                address.send(listener.local_addr().unwrap()).unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
                let mut buffer = vec![0; 1 << 20];
                let mut left = bytes;
                while left > 0 {
                    left = left.saturating_sub(stream.read(&mut buffer).await.unwrap() as u64);
                }
                stream.write_all(b"done").await.unwrap();
                stream.flush().await.unwrap();
            });
        });
        let address = addressed.recv().unwrap();
        runtime().block_on(async {
            let connector = TlsConnector::from(tls::client(&client, &[expected]));
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect(tls::server_name(), stream).await.unwrap();
            let buffer = vec![7; 2 << 20];
            let mut left = bytes;
            while left > 0 {
                let part = left.min(buffer.len() as u64);
                stream.write_all(&buffer[..part as usize]).await.unwrap();
                left -= part;
            }
            stream.flush().await.unwrap();
            let mut done = [0; 4];
            stream.read_exact(&mut done).await.unwrap();
        });
        reading.join().unwrap();
        bytes
    })
}

/// A host, and a terminal that only lends its line.
struct World {
    folder: tempfile::TempDir,
    /// By the terminal's socket: what is put goes through the whole way, socket, terminal, TLS, host.
    line: OfficeLine,
    /// Past the terminal.
    straight: OfficeLine,
    host: Arc<Host>,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("host");
    let env = Env::system(2);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options =
        HostOptions { name: "host".into(), listen: address.clone(), addresses: vec![address], machine_id: [1; 16] };
    setup::init(&data, &env, &options).unwrap();
    let mut identity = setup::load(&data).unwrap();
    identity.marks.reserve = (0, 0);
    let host = Host::open(Box::new(Folder(data.clone())), env.clone(), Work::Threads, identity).unwrap();
    let serving = host.clone();
    let socket = Folder::socket(&data);
    let path = socket.clone();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let local = UnixListener::bind(path).unwrap();
            let tell = move |_| ready.send(()).unwrap();
            run::run(serving, listener, local, tell, std::future::pending()).await.unwrap();
        });
    });
    is_ready.recv().unwrap();
    let admin = OfficeLine::through(&socket).unwrap().admin().unwrap();
    let user = NewUser { name: "anna", password: "word of anna", quota: 0, is_admin: false, is_private: false };
    admin.add_user(&env, &user).unwrap();
    let token = twinkeep_nodes::tracker::token::JoinToken::parse(&admin.token("pc", 600, true).unwrap()).unwrap();
    let terminal = folder.path().join("pc");
    twinkeep_nodes::terminal::setup::join(&terminal, &env, &token, 0, [2; 16]).unwrap();
    let (settings, grant) = twinkeep_nodes::terminal::setup::load(&terminal, "bench").unwrap();
    let opened = twinkeep_nodes::terminal::ground::copies(&terminal, env.clone(), "bench").unwrap();
    let kept = twinkeep_nodes::terminal::copies::Kept::new(opened.store, grant);
    let socket = twinkeep_nodes::terminal::ground::socket(&terminal);
    let path = socket.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let local = UnixListener::bind(path).unwrap();
            let never = std::future::pending();
            twinkeep_nodes::terminal::run(settings, kept, env, Work::Threads, local, never).await.unwrap();
        });
    });
    let begun = Instant::now();
    let line = loop {
        match OfficeLine::through(&socket) {
            Ok(line) => break line,
            Err(error) => assert!(begun.elapsed().as_secs() < 20, "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let straight = twinkeep_nodes::terminal::setup::straight(&terminal).unwrap();
    World { folder, line, straight, host }
}

/// What a frame's name costs whoever receives it, on one core.
fn verify(frames: &[SealedFrame]) -> u64 {
    let name = |frame: &SealedFrame| {
        assert_eq!(frame_id(&frame.bytes), frame.id);
        frame.bytes.len() as u64
    };
    frames.iter().map(name).sum()
}

fn look_ups(store: &dyn Store, dice: &mut Dice) {
    let mut id = || {
        let mut id = [0; 32];
        dice.fill(&mut id);
        ChunkId(id)
    };
    let ids: Vec<ChunkId> = (0..1000).map(|_| id()).collect();
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed().as_secs() < 2 {
        store.known(&ids).unwrap();
        calls += 1;
    }
    let rate = f64::from(calls) / begun.elapsed().as_secs_f64();
    println!("look-ups of 1000 ids, straight            {rate:>6.0} calls/s, {:.2} M ids/s", rate / 1000.0);
}

fn main() {
    let megabytes: usize = std::env::var("TWINKEEP_BENCH_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(512);
    let count = megabytes * 1_000_000 / (CHUNK_LEN * CHUNKS);
    let world = world();
    let open = |line: &OfficeLine| {
        let user = line.login("anna", &Proof::Password("word of anna")).unwrap();
        let id = user.vaults().unwrap()[0].id;
        (id, user.open(id, None).unwrap().0)
    };
    let ((id, straight), (_, through)) = (open(&world.straight), open(&world.line));
    let vault = world.host.vault(id).unwrap();
    let local = &vault.store;
    let mut dice = Dice(11);
    let mb = |rate: f64| format!("{:>6.0} MB/s", rate / 1e6);
    let share =
        |rate: f64, here: f64, raw: f64| format!("{}  {:.0} % of the smaller", mb(rate), 100.0 * rate / here.min(raw));

    let raw = raw_tls((count * CHUNK_LEN * CHUNKS) as u64);
    println!("TLS alone, one way, a core for each side  {}", mb(raw));
    let session = local.begin().unwrap();
    let sample = frames(session.id(), id, 64, &mut dice);
    println!("frames verified, one core                 {}", mb(best(|| verify(&sample))));
    drop((session, sample));
    let mut put = |store: &dyn Store| {
        // Sealed before the clock runs; put in a session of their own each time.
        let mut rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let session = store.begin().unwrap();
                let frames = frames(session.id(), id, count, &mut dice);
                (session, frames)
            })
            .collect();
        best(|| {
            let (session, frames) = rounds.pop().unwrap();
            put_all(&*session, frames)
        })
    };
    let here = put(local);
    println!("frames put, store in the same process     {}", mb(here));
    println!("frames put, over TLS                      {}", share(put(&straight), here, raw));
    println!("frames put, by a terminal, over TLS       {}", share(put(&through), here, raw));
    let here = best(|| read_all(local));
    println!("frames read, store in the same process    {}", mb(here));
    println!("frames read, over TLS                     {}", share(best(|| read_all(&straight)), here, raw));
    println!("frames read, by a terminal, over TLS      {}", share(best(|| read_all(&through)), here, raw));
    look_ups(&straight, &mut dice);
    drop(world.folder);
    std::process::exit(0);
}
