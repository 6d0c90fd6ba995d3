//! Real servers that are wrapped and unwrapped while they serve: redis, nginx, python, node and java, the last two with code
//! that they compile as they run. No request fails or is answered wrongly, and calls are counted exactly where they can be.
//!
//! `BRANT_FULL=1` makes it 1,000 rounds for each program.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brant_testkit::{Sandbox, Started, Who, have_command, is_full, skip, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROMPT_S: u64 = 60;
/// How long a server may take for one answer: it stands still for a moment, no more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const CLIENTS: usize = 4;

const NGINX: &str = "worker_processes 1; daemon off; pid ROOT/nginx.pid; error_log ROOT/nginx.log;\n\
    events { worker_connections 256; }\n\
    http { access_log ROOT/access.log; client_body_temp_path ROOT/n1; proxy_temp_path ROOT/n2;\n\
    fastcgi_temp_path ROOT/n3; uwsgi_temp_path ROOT/n4; scgi_temp_path ROOT/n5;\n\
    server { listen 127.0.0.1:PORT; root ROOT; } }\n";
const PYTHON: &str = "import http.server\n\
    class Handler(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       body = open('ROOT' + self.path, 'rb').read()\n\
    \x20       self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()\n\
    \x20       self.wfile.write(body)\n\
    \x20   def log_message(self, *_): pass\n\
    http.server.ThreadingHTTPServer.request_queue_size = 100\n\
    http.server.ThreadingHTTPServer(('127.0.0.1', PORT), Handler).serve_forever()\n";
const NODE: &str = "const fs = require('fs');\n\
    let made = 0;\n\
    require('http').createServer((request, answer) => {\n\
    const f = new Function('x', `let s = ${made++}; for (let i = 0; i < 3000; i++) s = (s * 31 + x) | 0; return s`);\n\
    if (!Number.isInteger(f(made))) process.exit(3);\n\
    fs.readFile('ROOT' + request.url, (error, body) => { answer.end(body); }); }).listen(PORT, '127.0.0.1');\n";
const JAVA: &str = "import com.sun.net.httpserver.HttpServer;\n\
    import java.net.InetSocketAddress;\n\
    import java.nio.file.*;\n\
    import java.util.concurrent.Executors;\n\
    class Server {\n\
    static int churn(int n) { int s = 0; for (int i = 0; i < 3000; i++) s = s * 31 + i % (n + 1); return s; }\n\
    static boolean catches(Object o) { try { return o.hashCode() == 0; } catch (NullPointerException e) { return true; } }\n\
    public static void main(String[] words) throws Exception {\n\
    var server = HttpServer.create(new InetSocketAddress(\"127.0.0.1\", PORT), 100);\n\
    server.setExecutor(Executors.newFixedThreadPool(6));\n\
    server.createContext(\"/\", x -> {\n\
    byte[] body = Files.readAllBytes(Path.of(\"ROOT\" + x.getRequestURI()));\n\
    if (churn(body.length) == 1 || !catches(null)) System.exit(3);\n\
    x.sendResponseHeaders(200, body.length); x.getResponseBody().write(body); x.close(); });\n\
    server.start(); } }\n";

/// A program that serves on a port.
struct Server {
    command: &'static str,
    /// Its file, where PORT and ROOT are filled in.
    file: (&'static str, &'static str),
    args: &'static [&'static str],
    /// A child of it serves.
    is_worker: bool,
    speaks: fn(&mut Client) -> Result<(), String>,
}

const SERVERS: [Server; 5] = [
    Server {
        command: "redis-server",
        file: ("redis.conf", "port PORT\nsave \"\"\ndir ROOT\nio-threads 2\n"),
        args: &["ROOT/redis.conf"],
        is_worker: false,
        speaks: increment,
    },
    Server {
        command: "nginx",
        file: ("nginx.conf", NGINX),
        args: &["-e", "ROOT/nginx.log", "-c", "ROOT/nginx.conf"],
        is_worker: true,
        speaks: get,
    },
    Server {
        command: "python3",
        file: ("server.py", PYTHON),
        args: &["ROOT/server.py"],
        is_worker: false,
        speaks: get,
    },
    Server {
        command: "node",
        file: ("server.js", NODE),
        args: &["ROOT/server.js"],
        is_worker: false,
        speaks: get,
    },
    Server {
        command: "java",
        file: ("Server.java", JAVA),
        args: &["-Xmx256m", "ROOT/Server.java"],
        is_worker: false,
        speaks: get,
    },
];

/// One client of a server: it asks, and looks at the answer.
struct Client {
    port: u16,
    content: String,
    /// Kept open by who speaks redis.
    connection: Option<BufReader<TcpStream>>,
    last: i64,
}

impl Client {
    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(stream)
    }
}

/// A file by HTTP, on a connection of its own.
fn get(client: &mut Client) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let mut stream = client.connect().map_err(said)?;
    stream.write_all(b"GET /content HTTP/1.0\r\n\r\n").map_err(said)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(said)?;
    let is_right = answer.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        head.lines().next().is_some_and(|line| line.contains(" 200 ")) && body == client.content
    });
    if is_right { Ok(()) } else { Err(format!("wrong answer {answer:?}")) }
}

/// A number of redis goes up, and a block comes back whole.
fn increment(client: &mut Client) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let mut stream = match client.connection.take() {
        Some(stream) => stream,
        None => BufReader::new(client.connect().map_err(said)?),
    };
    let request = format!("INCR n\r\nECHO {}\r\n", client.content);
    stream.get_mut().write_all(request.as_bytes()).map_err(said)?;
    let mut lines = [String::new(), String::new(), String::new()];
    for line in &mut lines {
        stream.read_line(line).map_err(said)?;
    }
    client.connection = Some(stream);
    let number = lines[0].trim().strip_prefix(':').and_then(|number| number.parse().ok());
    let is_right = number > Some(client.last) && lines[2].trim() == client.content;
    client.last = number.unwrap_or(client.last);
    if is_right { Ok(()) } else { Err(format!("wrong answer {lines:?}")) }
}

/// Clients that ask without a pause, and what went wrong for them.
struct Load {
    answered: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(port: u16, content: &str, speaks: fn(&mut Client) -> Result<(), String>) -> Load {
        let (answered, wrong, ends) = <(Arc<AtomicU64>, Arc<Mutex<Vec<String>>>, Arc<AtomicBool>)>::default();
        let client = || {
            let (answered, wrong, ends) = (Arc::clone(&answered), Arc::clone(&wrong), Arc::clone(&ends));
            let mut client = Client { port, content: content.to_owned(), connection: None, last: 0 };
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    match speaks(&mut client) {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => wrong.lock().expect("no client panics").push(why),
                    }
                }
            })
        };
        let clients = (0..CLIENTS).map(|_| client()).collect();
        Load { answered, wrong, ends, clients }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for some more answers; nothing may have gone wrong so far.
    fn expect_more(&self, what: &str) {
        let from = self.answered();
        let goes_on = wait_until(PROMPT_S, || self.answered() > from + 20 || !self.wrong().is_empty());
        assert!(self.wrong().is_empty(), "{what}: {:?}", self.wrong());
        assert!(goes_on, "{what}: only {} answers came after {from}", self.answered() - from);
    }

    fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("no client panics").iter().take(3).cloned().collect()
    }

    /// How many requests were answered; none wrongly.
    fn end(&mut self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| client.join().expect("no client panics"));
        assert!(self.wrong().is_empty(), "{:?}", self.wrong());
        self.answered()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// A server in a sandbox, with the mediators that count.
struct Running {
    sandbox: Sandbox,
    program: Started,
    /// The process that serves.
    pid: i32,
    port: u16,
    content: String,
}

impl Drop for Running {
    /// A worker that has written its title over its environment is not found by the sandbox. Its master first, which would make
    /// another one.
    fn drop(&mut self) {
        for pid in [self.program.pid(), self.pid] {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

impl Running {
    fn start(server: &Server) -> Running {
        let sandbox = Sandbox::new(Who::Plain);
        let (port, root) = (free_port(), sandbox.path("").display().to_string());
        let root = root.trim_end_matches('/');
        let fill = |text: &str| text.replace("ROOT", root).replace("PORT", &port.to_string());
        let content = "0123456789abcdef".repeat(40);
        sandbox.write("content", &content);
        sandbox.write(server.file.0, &fill(server.file.1));
        let mut command = sandbox.command(server.command);
        command.args(server.args.iter().map(|arg| fill(arg)));
        let program = sandbox.launch(command, false);
        let is_up = wait_until(PROMPT_S, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(is_up, "{}: {}", server.command, sandbox.text("err"));
        let pid = if server.is_worker { child_of(program.pid()) } else { program.pid() };
        let running = Running { sandbox, program, pid, port, content };
        running.define_counters();
        running
    }

    fn define_counters(&self) {
        self.sandbox
            .compile("cc", &["connect/count_calls.c"], "libcounts.so", &[])
            .expect("a compiler starts");
        let wraps = [
            ("malloc", "my_count", "void *(size_t)"),
            ("free", "my_count", "void(void *)"),
            ("read", "my_count", "ssize_t(int, void *, size_t)"),
            ("write", "my_count", "ssize_t(int, const void *, size_t)"),
            ("epoll_wait", "my_count", "int(int, void *, int, int)"),
            ("pthread_mutex_lock", "my_count", "int(void *)"),
            ("pthread_mutex_unlock", "my_count", "int(void *)"),
            ("accept4", "my_count_done", "int(int, void *, void *, int)"),
            ("accept", "my_count_done", "int(int, void *, void *)"),
        ];
        let define = |name: &str, wraps: &[(&str, &str, &str)]| {
            let mut text = format!("wrapper {name} implementation \"libcounts.so\"\n");
            for (function, mediator, signature) in wraps {
                text += &format!("wrap {function} in libc with {mediator} sig \"{signature}\"\n");
            }
            self.sandbox.write(&format!("{name}.wrap"), &text);
        };
        define("hot", &wraps);
        define("accepted", &wraps[7..]);
    }

    fn path(&self, name: &str) -> String {
        self.sandbox.path(name).to_str().expect("test paths are UTF-8").to_owned()
    }

    /// One of brant's verbs, again where every thread was in the allocator or the loader for a while.
    fn brant(&self, args: &[&str]) {
        let pid = self.pid.to_string();
        let mut outcome = self.sandbox.brant(&[args, &[&pid]].concat());
        for _ in 0..10 {
            if outcome.stderr.contains("B-1108") {
                outcome = self.sandbox.brant(&[args, &[&pid]].concat());
            }
        }
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
    }

    fn wrap(&self, wrapper: &str) {
        self.brant(&["wrap", wrapper]);
    }

    fn unwrap(&self, wrapper: &str) {
        self.brant(&["unwrap", wrapper]);
    }

    /// The counters since the last time.
    fn take_counts(&self) -> Vec<u64> {
        let bytes = std::fs::read(self.sandbox.path("counts")).unwrap_or_default();
        self.sandbox.write("counts", &"\0".repeat(4096));
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        bytes.chunks_exact(8).take(9).map(number).collect()
    }
}

fn child_of(pid: i32) -> i32 {
    let mut child = None;
    wait_until(PROMPT_S, || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        child = text.split_whitespace().next().and_then(|word| word.parse().ok());
        child.is_some()
    });
    child.expect("it has a child that serves")
}

/// So many times each wrapper is put on and taken off.
fn rounds() -> u32 {
    if is_full() { 200 } else { 1 }
}

fn serve_while_wrapped(server: &Server) {
    if !have_command(server.command) {
        return skip(server.command);
    }
    let begin = Instant::now();
    let mut running = Running::start(server);
    running.take_counts();
    let mut load = Load::start(running.port, &running.content, server.speaks);
    load.expect_more("bare");
    let wrappers = [
        ("hot", format!("{}:{}", running.path("hot.wrap"), running.path("counts"))),
        ("trace", format!("trace:out={}", running.path("trace.txt"))),
        ("files", format!("files:out={}", running.path("files.txt"))),
        ("net", format!("net:json,out={}", running.path("net.txt"))),
        ("faults", "faults:read=999999999999:EIO".to_owned()),
    ];
    for round in 0..rounds() {
        for (name, wrapper) in &wrappers {
            running.wrap(wrapper);
            load.expect_more(&format!("{} with {name} on, round {round}", server.command));
            running.unwrap(name);
            load.expect_more(&format!("{} with {name} off, round {round}", server.command));
        }
        // All at once, and off in another order.
        if round % 20 == 0 {
            wrappers.iter().for_each(|(_, wrapper)| running.wrap(wrapper));
            load.expect_more("all on");
            wrappers.iter().for_each(|(name, _)| running.unwrap(name));
        }
    }
    let counts = running.take_counts();
    assert!(counts.iter().sum::<u64>() > 0, "{}: {counts:?}", server.command);
    let answered = load.end();
    expect_exact_counts(&running, server);
    assert_eq!(running.program.ended(), None, "{}", running.sandbox.text("err"));
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}: {answered} answers, calls {counts:?}, {seconds:.1} s", server.command);
}

/// As many connections are accepted as are made.
fn expect_exact_counts(running: &Running, server: &Server) {
    const CONNECTIONS: u64 = 300;
    let wrapper = format!("{}:{}", running.path("accepted.wrap"), running.path("counts"));
    running.wrap(&wrapper);
    for _ in 0..CONNECTIONS {
        let content = running.content.clone();
        let mut client = Client { port: running.port, content, connection: None, last: 0 };
        (server.speaks)(&mut client).expect("it serves");
    }
    running.unwrap("accepted");
    let counts = running.take_counts();
    assert_eq!(counts[0] + counts[1], CONNECTIONS, "{}: {counts:?}", server.command);
}

#[test]
fn redis_is_wrapped_while_it_serves() {
    serve_while_wrapped(&SERVERS[0]);
}

#[test]
fn nginx_is_wrapped_while_it_serves() {
    serve_while_wrapped(&SERVERS[1]);
}

#[test]
fn python_is_wrapped_while_it_serves() {
    serve_while_wrapped(&SERVERS[2]);
}

#[test]
fn node_is_wrapped_while_it_serves() {
    serve_while_wrapped(&SERVERS[3]);
}

#[test]
fn java_is_wrapped_while_it_serves() {
    serve_while_wrapped(&SERVERS[4]);
}

/// The benchmark that redis brings along, with its own account of what failed.
#[test]
fn redis_is_wrapped_under_its_own_benchmark() {
    if !have_command("redis-benchmark") {
        return skip("redis-benchmark");
    }
    let mut running = Running::start(&SERVERS[0]);
    running.take_counts();
    let mut command = running.sandbox.command("redis-benchmark");
    command.args(["-p", &running.port.to_string(), "-c", "20", "-n", "20000", "-q", "--csv"]);
    command.args(["-t", "set,get,incr,lpush,rpop,sadd,hset,mset"]);
    let mut benchmark = running.sandbox.launch(command, false);
    let hot = format!("{}:{}", running.path("hot.wrap"), running.path("counts"));
    let trace = format!("trace:out={}", running.path("trace.txt"));
    let mut rounds = 0;
    while benchmark.ended().is_none() {
        for (name, wrapper) in [("hot", &hot), ("trace", &trace)] {
            running.wrap(wrapper);
            std::thread::sleep(Duration::from_millis(50));
            running.unwrap(name);
        }
        rounds += 1;
    }
    assert!(rounds > 0, "it ended before a wrapper was on");
    let said = running.sandbox.text("out");
    assert_eq!(benchmark.ended(), Some(0), "{said} {}", running.sandbox.text("err"));
    assert!(said.contains("\"MSET (10 keys)\"") && !said.contains("rror"), "{said}");
    let counts = running.take_counts();
    assert!(counts[2] > 0 && counts[3] > 0 && counts[4] > 0, "{counts:?}");
    assert_eq!(running.program.ended(), None, "{}", running.sandbox.text("err"));
}
