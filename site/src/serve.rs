//! `cargo xtask docs --serve`: the folder over HTTP, to this machine only.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const REQUEST_LINES_MAX: usize = 100;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until it is ended.
pub(crate) fn serve(site: &Path, port: u16) -> Result<(), String> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| format!("port {port}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("http://{address}/ shows {}; Ctrl-C ends it", site.display());
    for stream in listener.incoming().flatten() {
        let site = site.to_owned();
        std::thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(CLIENT_TIMEOUT));
            let _ = answer(&site, &stream);
        });
    }
    Ok(())
}

fn answer(site: &Path, mut stream: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines.take(REQUEST_LINES_MAX) {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or("/");
    let found = file(site, path).and_then(|file| Some((std::fs::read(&file).ok()?, kind(&file))));
    let (status, (body, kind)) = match found {
        Some(found) => ("200 OK", found),
        None => ("404 Not Found", (b"there is no such page".to_vec(), "text/plain")),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}

/// The file of an address; none outside of the folder.
fn file(site: &Path, path: &str) -> Option<PathBuf> {
    let path = path.split(['?', '#']).next()?.trim_start_matches('/');
    let is_inside = !path.split('/').any(|part| part == ".." || part.contains('\0'));
    let file = is_inside.then(|| site.join(path))?;
    Some(if file.is_dir() { file.join("index.html") } else { file })
}

fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json") => "application/json",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_served() {
        let site = Path::new("/srv/site");
        assert_eq!(file(site, "/../../etc/passwd"), None);
        assert_eq!(file(site, "/a/b.html?x#y"), Some(PathBuf::from("/srv/site/a/b.html")));
        assert_eq!(file(site, "//etc/passwd"), Some(PathBuf::from("/srv/site/etc/passwd")));
    }
}
