//! A server whose async tasks need heavy computations, and which never blocks its runtime.
//!
//! ```text
//! cargo run --release --features futures --example serve
//! ```
//!
//! The clients are in the same program: a line with a number asks for the count of primes below it; `stream N` for
//! those below 1000, 2000, … up to `N` thousands, one line each, when it is ready. One client hangs up before it has its
//! answer, and its work is cancelled. Meanwhile a clock ticks on the only thread of the runtime, and prints how late it
//! was at most.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parpool::{Pool, is_cancelled};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How many calls were told to stop, and did.
static STOPPED: AtomicU64 = AtomicU64::new(0);

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

/// The number of primes below `n`, or `None` if nobody wants to know any more.
fn primes_below(n: u64) -> Option<u64> {
    let mut count = 0;
    for candidate in 0..n {
        if candidate % 1024 == 0 && is_cancelled() {
            STOPPED.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        count += u64::from(is_prime(candidate));
    }
    Some(count)
}

/// Answers one client until it hangs up.
async fn answer(pool: Arc<Pool>, socket: TcpStream) -> io::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(thousands) = line.strip_prefix("stream ") {
            let thousands: u64 = thousands.parse().map_err(io::Error::other)?;
            let mut counts = pool.imap(|n| primes_below(n * 1000), 1..=thousands).into_stream();
            while let Some(count) = counts.next().await {
                let count = count.map_err(io::Error::other)?.unwrap_or(0);
                write.write_all(format!("{count}\n").as_bytes()).await?;
            }
            continue;
        }
        let n: u64 = line.parse().map_err(io::Error::other)?;
        let mut count = pool.apply_async(primes_below, (n,)).cancel_on_drop();
        tokio::select! {
            count = &mut count => {
                let count = count.map_err(io::Error::other)?.unwrap_or(0);
                write.write_all(format!("{count}\n").as_bytes()).await?;
            }
            // It has hung up, or is not polite. The handle is dropped, and the call told to stop.
            _ = lines.next_line() => return Ok(()),
        }
    }
    Ok(())
}

async fn ask(address: std::net::SocketAddr, question: &str, lines: usize) -> io::Result<Vec<u64>> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(format!("{question}\n").as_bytes()).await?;
    let mut answers = BufReader::new(socket).lines();
    let mut numbers = Vec::new();
    while numbers.len() < lines {
        let line = answers.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        numbers.push(line.parse().map_err(io::Error::other)?);
    }
    Ok(numbers)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Arc::new(Pool::new(None)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shared = Arc::clone(&pool);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(Arc::clone(&shared), socket));
        }
    });
    let latest = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&latest);
    tokio::spawn(async move {
        let tick = Duration::from_millis(5);
        loop {
            let begun = Instant::now();
            tokio::time::sleep(tick).await;
            let late = begun.elapsed().saturating_sub(tick);
            clock.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
        }
    });

    // One that hangs up: after 30 ms of work that would take minutes.
    let impatient = timeout(Duration::from_millis(30), ask(address, "1000000000", 1)).await;
    assert!(impatient.is_err());
    let begun = Instant::now();
    let asked = [200_000, 400_000, 600_000, 800_000].map(|n| async move {
        let answer = ask(address, &n.to_string(), 1).await?;
        Ok::<_, io::Error>((n, answer[0]))
    });
    for answer in futures::future::join_all(asked).await {
        let (n, count) = answer?;
        println!("{count} primes below {n}");
    }
    let counts = ask(address, "stream 100", 100).await?;
    println!("{} primes below 100000, the last of {} lines", counts[99], counts.len());
    println!("answered in {:?}", begun.elapsed());
    println!("the runtime's clock was late by {} ms at most", latest.load(Ordering::Relaxed));
    // Ends when what was told to stop has stopped.
    pool.close();
    pool.join()?;
    println!("{} call was told to stop, and did", STOPPED.load(Ordering::Relaxed));
    Ok(())
}
