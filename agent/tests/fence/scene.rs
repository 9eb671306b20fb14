//! A Postgres of its own, reached over a unix socket, and a fencer spoken to as an agent speaks to it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::demo::account::Account;
use agent::demo::processes;
use agent::demo::programs::{self, PostgresPrograms};
use agent::demo::workdir::Workdir;
use fencer::protocol::{Answer, Order, Report, State, VERSION, socket_name};
use tokio_postgres::{Client, Config, NoTls};

pub use fencer::clock::now_ns;
pub use processes::signal;

/// Nothing here may take longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Postgres.
pub struct Scene {
    workdir: Workdir,
    account: Account,
    programs: PostgresPrograms,
    data_dir: PathBuf,
    fencer: PathBuf,
}

impl Scene {
    /// Creates and starts it.
    pub async fn start() -> Self {
        let account = Account::find().expect("somebody to run Postgres");
        let programs = programs::postgres(None).expect("PostgreSQL is installed");
        let workdir = Workdir::create(account, "pgvigil-fence-").expect("a directory");
        let data_dir = workdir.path().join("data");
        workdir.directory("state").expect("a directory");
        // The account may not be able to reach where this was built.
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_pgvigil-fencer"));
        let program = std::env::var_os("FENCER").map_or_else(built, PathBuf::from);
        let fencer = workdir.copy(&program, fencer::PROGRAM).expect("a copy");
        let scene = Self { workdir, account, programs, data_dir, fencer };
        scene.postgres("initdb", &["-A", "trust", "-U", "postgres", "--no-sync", "-D"]);
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c max_connections=150 -c shared_buffers=16MB -c fsync=off",
            scene.directory().display()
        );
        let log = scene.directory().join("log");
        scene.postgres("pg_ctl", &["start", "-w", "-s", "-o", &options, "-l", &log.to_string_lossy(), "-D"]);
        scene
    }

    fn postgres(&self, program: &str, arguments: &[&str]) {
        let mut command = self.account.command(self.programs.bin_dir.join(program));
        command.args(arguments).arg(&self.data_dir).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().expect("it runs").success(), "{program}");
    }

    /// Where everything is.
    pub fn directory(&self) -> &Path {
        self.workdir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The postmaster.
    pub fn postmaster(&self) -> i32 {
        pg_control::process::find(&self.data_dir).expect("it runs").pid
    }

    /// How many processes of it are alive.
    pub fn alive(&self) -> usize {
        processes::of_server(&self.data_dir).len()
    }

    /// Waits until none is.
    pub async fn is_dead_within(&self, within: Duration) {
        let begin = Instant::now();
        while self.alive() > 0 {
            assert!(begin.elapsed() < within, "{} processes are alive after {within:?}", self.alive());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn session(&self) -> Client {
        let mut config = Config::new();
        config.host_path(self.directory()).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.expect("a session");
        tokio::spawn(connection);
        client
    }

    /// Idle sessions.
    pub async fn sessions(&self, count: usize) -> Vec<Client> {
        let mut sessions = Vec::new();
        for _ in 0..count {
            sessions.push(self.session().await);
        }
        sessions
    }

    /// Sessions that compute, and look at nothing else meanwhile.
    pub async fn busy_sessions(&self, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
        let mut busy = Vec::new();
        for _ in 0..count {
            let session = self.session().await;
            busy.push(tokio::spawn(async move {
                let _ = session.batch_execute("DO $$ BEGIN LOOP END LOOP; END $$").await;
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = processes::end_for_good(|| processes::of_directory(self.workdir.path()));
    }
}

/// A fencer, and the connection to it.
pub struct Fencer {
    child: Child,
    socket: PathBuf,
    wire: Option<BufReader<UnixStream>>,
    seq: u64,
}

impl Fencer {
    /// Only starts the program.
    pub fn run(scene: &Scene) -> Child {
        let mut command: Command = scene.account.command(&scene.fencer);
        command.env("MALLOC_ARENA_MAX", "1").arg(scene.directory().join("state")).stdin(Stdio::null());
        command.spawn().expect("the fencer runs")
    }

    /// Starts it and connects.
    pub fn start(scene: &Scene) -> Self {
        let socket = scene.directory().join("state").join(socket_name(VERSION));
        let mut fencer = Self { child: Self::run(scene), socket, wire: None, seq: 0 };
        fencer.connect();
        fencer
    }

    fn connect(&mut self) {
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        self.wire = Some(BufReader::new(stream));
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Sends an order and returns the report that answers it.
    pub fn ask(&mut self, order: &Order) -> Report {
        self.seq += 1;
        let wire = self.wire.as_mut().expect("connected");
        wire.get_mut().write_all(order.line(self.seq).as_bytes()).expect("it reads");
        loop {
            let mut line = String::new();
            wire.read_line(&mut line).expect("it answers");
            match Answer::parse(line.trim_end_matches('\n')) {
                Some(Answer::Report(report)) if report.seq == self.seq => return report,
                Some(Answer::Report(_)) => {}
                other => panic!("{other:?} to {order:?}: {line}"),
            }
        }
    }

    /// Waits until it has nothing to do any more.
    pub fn rests_within(&mut self, within: Duration) -> Report {
        let begin = Instant::now();
        loop {
            let report = self.ask(&Order::Ping);
            if report.state == State::Idle {
                return report;
            }
            assert!(begin.elapsed() < within, "{report:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes the connection, as a dead agent does.
    pub fn hang_up(&mut self) {
        self.wire = None;
    }

    /// Connects as the next agent.
    pub fn call_again(&mut self) -> Report {
        self.connect();
        self.ask(&Order::Hello(None))
    }

    /// Whether it ends by itself.
    pub fn ended_within(&mut self, within: Duration) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < within {
            if self.child.try_wait().expect("my child").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Fencer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that wants a whole processor.
pub struct Load(Child);

impl Load {
    /// Starts it.
    pub fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel says about the memory and the scheduling of a process.
pub fn memory(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let wanted = ["VmRSS:", "RssAnon:", "RssFile:", "VmLck:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}
