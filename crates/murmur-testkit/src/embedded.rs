//! A DynamoDB with Streams inside this process.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use dynoxide::Database;
use tokio::runtime;
use tokio::sync::oneshot;

/// An in-memory DynamoDB with Streams, served on a free port of 127.0.0.1.
///
/// It runs on its own thread and runtime, so it outlives the runtimes of single tests. It stops
/// when the last clone is dropped, and its tables are lost then.
///
/// It differs from DynamoDB:
///
/// - A stream has one shard, which never splits.
/// - There is no throttling and there are no transaction conflicts.
/// - Reads are always consistent.
/// - TTL acts only when [`database`](Self::database)`().sweep_ttl()` is called.
#[derive(Clone)]
pub struct Embedded {
    server: Arc<Server>,
}

struct Server {
    address: SocketAddr,
    database: Database,
    /// Dropped with the last clone, which tells the thread to end.
    _stop: oneshot::Sender<()>,
}

impl Embedded {
    /// Starts a server with no tables. The server accepts requests as soon as this returns.
    ///
    /// # Errors
    ///
    /// If the port, the thread or the in-memory database is not available.
    pub fn start() -> io::Result<Self> {
        let database = Database::memory().map_err(io::Error::other)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();

        let served = database.clone();
        thread::Builder::new()
            .name("embedded-dynamodb".into())
            .spawn(move || {
                // When this future ends, the runtime is dropped with every open connection.
                runtime.block_on(async move {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => tokio::select! {
                            () = dynoxide::server::serve_on(listener, served) => {}
                            _ = stopped => {}
                        },
                        Err(error) => panic!("the embedded DynamoDB cannot listen: {error}"),
                    }
                });
            })?;
        Ok(Self {
            server: Arc::new(Server {
                address,
                database,
                _stop: stop,
            }),
        })
    }

    /// The URL for clients, such as `http://127.0.0.1:40123`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The database behind the server, for actions that the API lacks, such as a TTL sweep.
    pub fn database(&self) -> &Database {
        &self.server.database
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("address", &self.server.address)
            .finish_non_exhaustive()
    }
}
