// Reads so many rows with pg-logical-replication: DSN SLOT PUBLICATION ROWS.
import { LogicalReplicationService, PgoutputPlugin } from "pg-logical-replication";

const [dsn, slot, publication, wanted] = process.argv.slice(2);
// libpq's words for a Unix socket; the driver takes a folder as its host.
const words = Object.fromEntries(dsn.split(" ").map((word) => word.split("=")));
const where = words.host
  ? { host: words.host, port: Number(words.port), user: words.user, database: words.dbname }
  : { connectionString: dsn };
const service = new LogicalReplicationService(where, { acknowledge: { auto: false, timeoutSeconds: 10 } });
const began = performance.now();
let rows = 0;
service.on("data", (lsn, message) => {
  if (message.tag !== "insert" || ++rows < Number(wanted)) return;
  console.log(JSON.stringify({ rows, seconds: (performance.now() - began) / 1000 }));
  process.exit(0);
});
service.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});
service.subscribe(new PgoutputPlugin({ protoVersion: 1, publicationNames: [publication] }), slot);
