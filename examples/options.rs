//! Chooses every option in code instead of by URIs: `options HOST MYSQL_PORT GRPC_PORT DATABASE USER FILE.db`.
//!
//! The password is taken from the environment variable `PASSWORD`. Every option has a default but host, database and gRPC port.

use std::process::ExitCode;
use std::time::Duration;

use planetscale_ingest::{
    CaptureMode, CaptureOptions, Error, ErrorKind, IngestOptions, Report, Sink, SinkOptions, Source, SourceOptions, SqliteOptions,
    Strategy, TabletType, Tls, ZeroDates, ingest,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, mysql_port, grpc_port, database, user, file] = arguments.as_slice() else {
        eprintln!("usage: options HOST MYSQL_PORT GRPC_PORT DATABASE USER FILE.db");
        return ExitCode::from(2);
    };
    let (Ok(mysql_port), Ok(grpc_port)) = (mysql_port.parse(), grpc_port.parse()) else {
        eprintln!("options: the ports have to be numbers from 1 to 65535");
        return ExitCode::from(2);
    };
    let capture = CaptureOptions::new(grpc_port)
        .with_mode(CaptureMode::Batch)
        .with_tablet_type(TabletType::Primary)
        .with_no_progress_timeout(Duration::from_secs(60));
    let source = SourceOptions::new(host, database)
        .with_port(mysql_port)
        .with_user(user)
        .with_password(std::env::var("PASSWORD").unwrap_or_default())
        // TLS if the server has it; a program that talks to another machine should say `Tls::Verify`.
        .with_tls(Tls::Preferred)
        .with_connect_timeout(Duration::from_secs(5))
        .with_capture(capture);
    let sink = SqliteOptions::new(file).with_busy_timeout(Duration::from_secs(1)).into();
    match capture_into(&source, &sink) {
        Ok(report) => {
            report.tables.iter().for_each(|table| println!("{}: {} rows and changes, {:?}", table.source, table.rows_read, table.state));
            if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let advice = if error.kind() == ErrorKind::Auth { " (is PASSWORD set?)" } else { "" };
            eprintln!("options: {error:#}{advice}");
            ExitCode::FAILURE
        }
    }
}

fn capture_into(source: &SourceOptions, sink: &SinkOptions) -> Result<Report, Error> {
    let source = Source::open_with(source)?;
    let mut sink = Sink::open_with(sink)?;
    let options = IngestOptions::new().with_strategy(Strategy::Merge).with_hard_delete(true).with_zero_dates(ZeroDates::Error);
    ingest(&source, &mut sink, &options)
}
