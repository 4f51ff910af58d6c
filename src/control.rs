//! The HTTP API: a thread of its own with an established HTTP stack, beside the shards. It reaches
//! users through the mesh like anybody else; when it stalls, messages flow on.
//!
//! It decides nothing about users or messages: it checks who asks and what the request says, sends
//! an operation to the home, and waits for the answer, which comes when it is durable. What can be
//! asked is said in one place, the [`catalogue`].
//!
//! *Bounds.* Connections: [`listener::CONNECTIONS_MAX`], further ones wait to be accepted; one
//! request of each at a time; bodies [`BODY_BYTES_MAX`]; a request, and an
//! answer of a shard: [`TIMES`].

mod accounts;
pub mod auth;
mod catalogue;
mod content;
mod conversations;
mod error;
mod friends;
mod groups;
mod health;
mod listener;
mod messages;
mod metrics_page;
mod notices;
mod openapi;
#[cfg(test)]
mod tests;
mod tokens;
mod types;
mod users;

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ringpost_core::dialect::Settings;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::ids::Slot;
use ringpost_storage::Log;
use tokio::sync::{Mutex, oneshot, watch};

use crate::health::Health;
use crate::mesh::{AskError, Mesh};
use crate::stats::Stats;
use crate::token::Signer;
use auth::ApiKeys;
use catalogue::{Entry, entry};
use error::ApiError;

/// Larger bodies are refused with 413.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long things may take.
const TIMES: Times = Times {
    request: Duration::from_secs(30),
    answer: Duration::from_secs(5),
    stop: Duration::from_secs(5),
};
/// Changes of users whose slots share a lock wait for each other.
const LOCKS: usize = 256;

/// What the API needs of the configuration.
pub struct Setup {
    /// Who may use it.
    pub keys: ApiKeys,
    /// Mints tokens; `None`: others do, with keys of which only the public part is here.
    pub signer: Option<Signer>,
    /// Answer `/metrics` to everybody.
    pub metrics_public: bool,
}

/// What the API sees of the running process.
#[derive(Clone)]
pub struct Process {
    /// The way to the shards.
    pub mesh: Mesh,
    /// Whether it is ready.
    pub health: Health,
    /// What it counts.
    pub stats: Stats,
    /// The store, for its sizes. It is closed when its threads have ended, whoever asks.
    pub store: Weak<dyn Log>,
    /// How dialects are read.
    pub dialects: Arc<Settings>,
    /// The store's epoch.
    pub epoch: u64,
}

/// How long things may take.
#[derive(Clone, Copy)]
struct Times {
    /// From a request's head to its answer, its body included; then 408.
    request: Duration,
    /// A shard's answer; then 503. The operation may still be executed.
    answer: Duration,
    /// Requests in progress once the process ends.
    stop: Duration,
}

/// What all handlers share.
struct Shared {
    times: Times,
    /// Read once per request: what changes meanwhile is for the next one.
    setup: watch::Receiver<Arc<Setup>>,
    process: Process,
    /// A change of a profile is a read and a write: nobody else's may come between.
    locks: Box<[Mutex<()>]>,
}

/// The running API.
pub struct Control {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    setup: watch::Sender<Arc<Setup>>,
}

impl Control {
    /// Serves on `listener` from a thread of its own.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(
        listener: std::net::TcpListener,
        setup: Setup,
        process: Process,
    ) -> io::Result<Control> {
        Control::start_timed(listener, setup, process, TIMES)
    }

    fn start_timed(
        listener: std::net::TcpListener,
        setup: Setup,
        process: Process,
        times: Times,
    ) -> io::Result<Control> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            listener::Bounded::new(tokio::net::TcpListener::from_std(listener)?)
        };
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        let (setup, current) = watch::channel(Arc::new(setup));
        let router = router(Arc::new(Shared { times, setup: current, process, locks }));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, router, stopped, times.stop));
            // Connections that are still there end with it.
            runtime.shutdown_background();
        })?;
        Ok(Control { thread, stop, setup })
    }

    /// Takes other keys, for the requests that come from now on.
    pub fn set(&self, setup: Setup) {
        self.setup.send_replace(Arc::new(setup));
    }

    /// Accepts nothing more, lets requests in progress end (within [`TIMES`]), and waits for
    /// the thread.
    pub fn stop(self) {
        let _ended_already = self.stop.send(());
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn serve(
    listener: listener::Bounded,
    router: Router,
    stopped: oneshot::Receiver<()>,
    stop_max: Duration,
) {
    let (ending, ended) = oneshot::channel::<()>();
    let stop = async move {
        // A `Control` dropped without `stop` asks for the same.
        let _asked = stopped.await;
        let _served_already = ending.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop);
    let deadline = async move {
        let _begun = ended.await;
        tokio::time::sleep(stop_max).await;
    };
    tokio::select! {
        // Never an error: accepting goes on after one.
        _done = serving => {}
        () = deadline => tracing::warn!("requests were still in progress when the API ended"),
    }
}

/// The operations of the API.
fn operations() -> Vec<Entry> {
    vec![
        entry::<health::GetInfo>(),
        entry::<tokens::MintToken>(),
        entry::<users::PutUser>(),
        entry::<users::GetUser>(),
        entry::<accounts::Cancel>(),
        entry::<accounts::Kick>(),
        entry::<accounts::BanUser>(),
        entry::<accounts::Unban>(),
        entry::<accounts::SetState>(),
        entry::<accounts::Connections>(),
        entry::<accounts::GetPresence>(),
        entry::<friends::AskFriend>(),
        entry::<friends::AcceptFriend>(),
        entry::<friends::RejectFriend>(),
        entry::<friends::EndFriendship>(),
        entry::<friends::ListFriends>(),
        entry::<friends::Block>(),
        entry::<friends::Unblock>(),
        entry::<groups::CreateGroup>(),
        entry::<groups::GetGroup>(),
        entry::<groups::ChangeGroup>(),
        entry::<groups::DissolveGroup>(),
        entry::<groups::AddMembers>(),
        entry::<groups::ListMembers>(),
        entry::<groups::ChangeMember>(),
        entry::<groups::RemoveMember>(),
        entry::<messages::SendMessage>(),
        entry::<messages::GetMessage>(),
        entry::<messages::RevokeMessage>(),
        entry::<notices::SendNotice>(),
        entry::<conversations::ListConversations>(),
        entry::<conversations::ListMessages>(),
        entry::<conversations::MarkRead>(),
    ]
}

fn router(shared: Arc<Shared>) -> Router {
    let operations = operations();
    let document = Arc::new(openapi::document(&operations).to_string());
    catalogue::router(&operations)
        .route("/openapi.json", get(move || openapi::serve(document.clone())))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics_page::metrics))
        .fallback(async || ApiError::not_found("no such path"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(shared.clone(), in_time))
        .layer(middleware::from_fn_with_state(shared.clone(), known_caller))
        .with_state(shared)
}

/// Ends a request that takes too long.
async fn in_time(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(shared.times.request, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::timeout().into_response(),
    }
}

/// Refuses requests without a valid key before anything else of them is looked at, except on the
/// three paths that may be open; what a key may do is the handlers' question.
async fn known_caller(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let setup = shared.setup();
    let open = match request.uri().path() {
        "/healthz" | "/readyz" => true,
        "/metrics" => setup.metrics_public,
        _ => false,
    };
    if !open {
        match setup.keys.caller(request.headers()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
            }
            Err(error) => return error.into_response(),
        }
    }
    next.run(request).await
}

impl Shared {
    /// Who may do what, as the operator has it now.
    fn setup(&self) -> Arc<Setup> {
        self.setup.borrow().clone()
    }

    /// Asks the home that executes the operation; waits no longer than [`Times::answer`].
    async fn ask(&self, operation: Operation) -> Result<Answer, ApiError> {
        let asked = self.process.mesh.ask(operation);
        match tokio::time::timeout(self.times.answer, asked).await {
            Ok(Ok(Answer::Refused(Refusal::TryAgain))) => {
                Err(ApiError::unavailable("the log cannot store it now: try again"))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(AskError::Busy)) => Err(ApiError::unavailable("too many requests in progress")),
            Ok(Err(AskError::Ending)) => Err(ApiError::unavailable("the server is ending")),
            Err(_elapsed) => Err(ApiError::unavailable(
                "the shard has not answered in time; what was asked may still be done",
            )),
        }
    }

    /// The lock for changes of what has this slot.
    fn lock(&self, slot: Slot) -> &Mutex<()> {
        &self.locks[usize::from(slot.0) % LOCKS]
    }
}

/// Milliseconds since 1970.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
