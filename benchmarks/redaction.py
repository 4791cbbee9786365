"""How much of planted secrets redaction covers, how many look-alikes it touches, and how fast it is.

    python benchmarks/redaction.py [--seeds 20] [--text /work/shared/corpus] [--verbose]

Secrets are put together at run time, each `--seeds` times with other letters, as such, in JSON-escaped and in
twice-escaped text. A secret is covered when at least 80 % of its characters are gone. `--text` names session files
for the speed; without it, invented code and logs.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import string
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent_rollouts.distill.redact import Redactor, find, redact_text
from benchmarks import redaction_sets

BASE62 = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
URLSAFE = BASE62 + "-_"
BASE64 = BASE62 + "+/"
LOWER = string.ascii_lowercase + string.digits
UPPER = string.ascii_uppercase + string.digits
SYMBOLS = BASE62 + "!@#%^*_-+"


def secrets(rng: random.Random) -> dict[str, tuple[str, str]]:
    """Kind → (text, the secret in it)."""

    def of(letters: str, length: int) -> str:
        return "".join(rng.choices(letters, k=length))

    def b64(length: int) -> str:
        return base64.b64encode(rng.randbytes(length)).decode()

    def url64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def pem(kind: str, lines: int = 12) -> str:
        body = "\n".join(of(BASE64, 64) for _ in range(lines))
        return f"-----BEGIN {kind}-----\n{body}\n{of(BASE64, 30)}==\n-----END {kind}-----"

    def word() -> str:
        return of(BASE62, 5) + rng.choice("!#%^*") + of(BASE62, 6) + rng.choice("0123456789")

    uuid = "-".join(of(HEX, n) for n in (8, 4, 4, 4, 12))
    jwt = ".".join((
        url64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()),
        url64(json.dumps({"sub": of(HEX, 12), "iat": rng.randrange(10**9, 2 * 10**9)}).encode()),
        of(URLSAFE, 43),
    ))  # fmt: skip
    made: dict[str, tuple[str, str]] = {}

    def add(kind: str, secret: str, text: str = "the value is {} here") -> None:
        made[kind] = (text.replace("{}", secret), secret)

    add("aws access key", "AKIA" + of(UPPER[:26] + "234567", 16))
    add("aws temporary key", "ASIA" + of(UPPER[:26] + "234567", 16), "aws_access_key_id = {}")
    add("aws secret key", of(BASE64, 40), "aws_secret_access_key = {}\nregion = eu-west-1")
    add("aws secret key, json", of(BASE64, 40), '{"SecretAccessKey": "{}", "Version": 1}')
    add("aws session token", "IQoJb3JpZ2lu" + of(BASE64, 300), "export AWS_SESSION_TOKEN={}")
    add("google api key", "AIza" + of(URLSAFE, 35))
    add("google oauth secret", "GOCSPX-" + of(URLSAFE, 28))
    add("google access token", "ya29." + of(URLSAFE, 120))
    add(
        "gcp service account",
        pem("PRIVATE KEY").replace("\n", "\\n"),
        '{"type": "service_account", "private_key": "{}\\n"}',
    )
    add(
        "azure storage key",
        b64(64),
        "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={};EndpointSuffix=core.windows.net",
    )
    add("azure sas", of(BASE62, 40) + "%3D", "https://acc.blob.core.windows.net/c?sv=2022-11-02&ss=b&sig={}")
    add("azure client secret", of(BASE62, 3) + "8Q~" + of(URLSAFE, 34), "client secret: {}")
    add(
        "azure service bus",
        b64(32),
        "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={}",
    )
    for prefix in ("ghp", "gho", "ghu", "ghs", "ghr"):
        add(f"github {prefix}", f"{prefix}_" + of(BASE62, 36))
    add("github fine-grained", "github_pat_" + of(BASE62, 22) + "_" + of(BASE62, 59))
    add("github in url", "ghp_" + of(BASE62, 36), "git clone https://{}@github.com/acme/repo.git")
    add("gitlab", "glpat-" + of(URLSAFE, 20))
    add("bitbucket", "ATBB" + of(BASE62, 32))
    add("slack bot", f"xoxb-{of(string.digits, 12)}-{of(string.digits, 12)}-{of(BASE62, 24)}")
    add("slack app", f"xapp-1-A{of(UPPER, 10)}-{of(string.digits, 13)}-{of(HEX, 64)}")
    add(
        "slack webhook",
        f"T{of(UPPER, 10)}/B{of(UPPER, 10)}/{of(BASE62, 24)}",
        "curl -d x https://hooks.slack.com/services/{}",
    )
    add("discord bot", f"M{of(BASE62, 23)}.{of(BASE62, 6)}.{of(URLSAFE, 38)}")
    add("discord webhook", f"{of(string.digits, 18)}/{of(URLSAFE, 68)}", "https://discord.com/api/webhooks/{}")
    add("telegram", f"{rng.randrange(10**9, 10**10)}:AA{of(URLSAFE, 33)}")
    add("stripe", "sk_live_" + of(BASE62, 24))
    add("stripe restricted", "rk_live_" + of(BASE62, 99))
    add("stripe webhook", "whsec_" + of(BASE62, 32))
    add("twilio key", "SK" + of(HEX, 32))
    add("twilio token", of(HEX, 32), "TWILIO_AUTH_TOKEN={}")
    add("sendgrid", "SG." + of(URLSAFE, 22) + "." + of(URLSAFE, 43))
    add("mailgun", "key-" + of(HEX, 32))
    add("mailchimp", of(HEX, 32) + "-us14")
    add("postmark", uuid, "X-Postmark-Server-Token: {}")
    add("openai", "sk-" + of(BASE62, 20) + "T3BlbkFJ" + of(BASE62, 20))
    add("openai project", "sk-proj-" + of(URLSAFE, 74) + "T3BlbkFJ" + of(URLSAFE, 74))
    add("openai service", "sk-svcacct-" + of(URLSAFE, 74))
    add("anthropic", "sk-ant-api03-" + of(URLSAFE, 93) + "AA")
    add("hugging face", "hf_" + of(string.ascii_letters, 34))
    add("replicate", "r8_" + of(BASE62, 37))
    add("groq", "gsk_" + of(BASE62, 52))
    add("xai", "xai-" + of(BASE62, 80))
    add("openrouter", "sk-or-v1-" + of(HEX, 64))
    add("perplexity", "pplx-" + of(BASE62, 48))
    add("fireworks", "fw_" + of(BASE62, 24))
    add("deepseek", "sk-" + of(HEX, 32))
    add("mistral", of(BASE62, 32), 'MISTRAL_API_KEY="{}"')
    add("cohere", of(BASE62, 40), 'cohere.Client(api_key="{}")')
    add("npm", "npm_" + of(BASE62, 36), "//registry.npmjs.org/:_authToken={}")
    add("npm legacy", uuid, "//registry.npmjs.org/:_authToken={}")
    add("pypi", "pypi-AgEIcHlwaS5vcmc" + of(URLSAFE, 150))
    add("rubygems", "rubygems_" + of(HEX, 48))
    add("crates.io", "cio" + of(BASE62, 32))
    add("nuget", "oy2" + of(LOWER, 43))
    add("docker hub", "dckr_pat_" + of(URLSAFE, 27))
    add(
        "docker config",
        base64.b64encode(f"bot:{word()}".encode()).decode(),
        '{"auths": {"https://index.docker.io/v1/": {"auth": "{}"}}}',
    )
    add("terraform", of(BASE62, 14) + ".atlasv1." + of(BASE62, 67))
    add("vault", "hvs." + of(URLSAFE, 95))
    add("databricks", "dapi" + of(HEX, 32))
    add("planetscale", "pscale_tkn_" + of(URLSAFE, 43))
    add("supabase", "sbp_" + of(HEX, 40))
    add("digitalocean", "dop_v1_" + of(HEX, 64))
    add("heroku", uuid, "HEROKU_API_KEY={}")
    add("cloudflare", of(URLSAFE, 40), "CLOUDFLARE_API_TOKEN={}")
    add("fly.io", "FlyV1 fm2_" + of(BASE64, 120))
    add("linear", "lin_api_" + of(BASE62, 40))
    add("notion", "ntn_" + of(string.digits, 11) + of(BASE62, 35))
    add("airtable", "pat" + of(BASE62, 14) + "." + of(HEX, 64))
    add("atlassian", "ATATT3xFfGF0" + of(URLSAFE, 180) + "=" + of(UPPER, 8))
    add("figma", "figd_" + of(URLSAFE, 40))
    add("shopify", "shpat_" + of(HEX, 32))
    add("square", "sq0atp-" + of(URLSAFE, 22))
    add("plaid", f"access-production-{uuid}")
    add("new relic", "NRAK-" + of(UPPER, 27))
    add("datadog", of(HEX, 32), "DD_API_KEY={}")
    add("sentry", "sntrys_" + of(BASE64, 100))
    add("sentry dsn", of(HEX, 32), "dsn: https://{}@o4501.ingest.sentry.io/4502")
    add("grafana", "glsa_" + of(BASE62, 32) + "_" + of(HEX, 8))
    add("doppler", "dp.pt." + of(BASE62, 43))
    add("1password", "ops_eyJ" + of(BASE62, 250))
    add("age", "AGE-SECRET-KEY-1" + of("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58))
    add("rsa key", pem("RSA PRIVATE KEY"), "cat key\n{}\n")
    add("openssh key", pem("OPENSSH PRIVATE KEY", 6))
    add("ec key", pem("EC PRIVATE KEY", 2))
    add("pgp key", pem("PGP PRIVATE KEY BLOCK", 20))
    add("truncated key", pem("RSA PRIVATE KEY").rsplit("\n", 3)[0], "{}\n... output truncated")
    add(
        "key with line numbers", "\n".join(f"{n:6}\t{line}" for n, line in enumerate(pem("PRIVATE KEY").split("\n"), 1))
    )
    add("jwt", jwt, "Set token {} in the store")
    add("bearer header", of(URLSAFE, 48), "curl -H 'Authorization: Bearer {}' https://api.acme.dev")
    add("basic header", base64.b64encode(f"svc:{word()}".encode()).decode(), "Authorization: Basic {}")
    add("x-api-key header", of(BASE62, 32), "x-api-key: {}")
    add("cookie", of(HEX, 40), "Cookie: theme=dark; sessionid={}; lang=en")
    add("set-cookie", of(BASE62, 32), "Set-Cookie: connect.sid=s%3A{}; Path=/; HttpOnly")
    add("netrc", word(), "machine api.acme.dev login bot password {}\n")
    add("htpasswd", "$apr1$" + of(BASE62, 8) + "$" + of(BASE62, 22), "admin:{}")
    add("bcrypt", "$2b$12$" + of(BASE62, 53), "hash {} stored")
    add("postgres url", word().replace("#", "_"), "DATABASE_URL=postgres://app:{}@db.acme.dev:5432/main")
    add("mongodb url", of(BASE62, 16), "mongodb+srv://svc:{}@cluster0.ab1cd.mongodb.net/x")
    add("redis url", of(BASE62, 24), "redis://:{}@cache.acme.dev:6379/0")
    add("amqp url", of(BASE62, 14), "amqp://svc:{}@mq.acme.dev/vhost")
    add("jdbc", of(BASE62, 14), "jdbc:mysql://db.acme.dev/x?user=app&password={}&useSSL=true")
    add("ado.net", word(), "Server=db;Database=x;User Id=sa;Password={};Encrypt=true")
    add("kubeconfig token", of(BASE62, 60), "users:\n- name: x\n  user:\n    token: {}\n")
    add("kubeconfig key", base64.b64encode(pem("RSA PRIVATE KEY").encode()).decode(), "    client-key-data: {}\n")
    add(".env password", word(), "DB_HOST=x\nDB_PASSWORD={}\nDB_PORT=5432\n")
    add(".env secret", of(HEX, 64), "SECRET_KEY_BASE={}\n")
    add("shell export", of(BASE62, 32), 'export ACME_API_KEY="{}"\n')
    add("yaml password", word(), "db:\n  user: x\n  password: {}\n")
    add("json secret", of(BASE62, 32), '{"client_id": "abc", "client_secret": "{}"}')
    add("toml token", of(BASE62, 40), '[registry]\ntoken = "{}"\n')
    add("python literal", word(), 'conn = connect(user="x", password="{}")')
    add("js literal", of(BASE62, 36), "const apiKey = '{}';")
    add("ts typed literal", of(BASE62, 36), "private readonly apiSecret: string = '{}';")
    add("xml password", word().replace("&", "_"), "<password>{}</password>")
    add("cli flag", word(), "deploy --user x --password {} --force")
    add("curl user", word(), "curl -s -u admin:{} https://acme.dev/api")
    add("mysql -p", word().replace("!", "_"), "mysql -u root -p{} -h db main")
    add("sshpass", word(), "sshpass -p '{}' ssh root@host")
    add("pgpassword", word(), "PGPASSWORD='{}' psql -h db")
    add("docker env", of(BASE62, 30), "docker run -e API_TOKEN={} image")
    add("k8s env", word(), '{"name": "DB_PASSWORD", "value": "{}"}')
    add("wireguard", b64(32), "[Interface]\nPrivateKey = {}\nAddress = 10.0.0.2/32")
    add("home folder", "m" + of(string.ascii_lowercase, 9), "cd /home/{}/src && ls")
    add("mac home folder", "m" + of(string.ascii_lowercase, 9), "/Users/{}/Library/Caches")
    add("windows home folder", "m" + of(string.ascii_lowercase, 9), "C:\\Users\\{}\\AppData")
    add("claude folder", "m" + of(string.ascii_lowercase, 9), "~/.claude/projects/-Users-{}-code-app")
    add("e-mail", f"{of(string.ascii_lowercase, 7)}.{of(string.ascii_lowercase, 5)}@gmail.com", "Author: X <{}>")
    add(
        "ip",
        f"{rng.choice((34, 52, 91, 185))}.{rng.randrange(30, 250)}.{rng.randrange(250)}.{rng.randrange(1, 250)}",
        "ssh root@{}",
    )
    add("ipv6", f"2a01:4f8:{of(HEX[1:], 4)}:{of(HEX[1:], 4)}::1", "from {} port 22")
    return made | {f"{kind}, 2": case for kind, case in redaction_sets.secrets(rng).items()}


def look_alikes(rng: random.Random) -> dict[str, str]:
    """Kind → text that must stay as it is."""

    def of(letters: str, length: int) -> str:
        return "".join(rng.choices(letters, k=length))

    uuid = "-".join(of(HEX, n) for n in (8, 4, 4, 4, 12))
    sha, sha256 = of(HEX, 40), of(HEX, 64)
    b64 = base64.b64encode(rng.randbytes(64)).decode()
    made = {
        "ts type": "interface Auth { accessToken: string; refreshToken?: string | null }",
        "process.env": "const key = process.env.API_KEY ?? process.env.OPENAI_API_KEY;",
        "call": "const apiKey = await getTokenKey();",
        "os.environ": 'api_key = os.environ["OPENAI_API_KEY"]',
        "getenv": 'token = os.getenv("GITHUB_TOKEN", "")',
        "shell variable": 'curl -H "Authorization: Bearer ${TOKEN}" -u "$USER:$PASS" https://x.dev',
        "actions": "token: ${{ secrets.GITHUB_TOKEN }}",
        "angle": "API_KEY=<your-api-key>",
        "your": 'OPENAI_API_KEY="your-api-key-here"',
        "sk dots": "OPENAI_API_KEY=sk-...",
        "sk x": "export OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "changeme": "POSTGRES_PASSWORD=changeme",
        "asterisks": "password: ********",
        "uuid": f'"request_id": "{uuid}"',
        "git sha": f"commit {sha}\nMerge: {sha[:7]} {sha[7:14]}",
        "npm lock": f'"integrity": "sha512-{b64}"',
        "pip hash": f"    --hash=sha256:{sha256} \\",
        "go.sum": f"golang.org/x/net v0.17.0 h1:{base64.b64encode(rng.randbytes(32)).decode()}",
        "docker digest": f"FROM python:3.12@sha256:{sha256}",
        "yarn checksum": f"  checksum: 10c0/{of(HEX, 128)}",
        "base64 image": f'src="data:image/png;base64,{base64.b64encode(rng.randbytes(600)).decode()}"',
        "tool id": f'"tool_use_id": "toolu_01{of(BASE62, 22)}", "call_id": "call_{of(BASE62, 24)}"',
        "message id": f'"id": "msg_01{of(BASE62, 22)}", "requestId": "req_011{of(BASE62, 21)}"',
        "model": 'model="claude-sonnet-4-5-20250929", tokenizer="Qwen/Qwen2.5-Coder-7B-Instruct"',
        "java classes": "at com.acme.security.TokenProvider.createToken(TokenProvider.java:42)",
        "aws example": "AKIAIOSFODNN7EXAMPLE / wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "css": ".sk-fading-circle { background: #fff } .token-keyword { color: #07a } .task-list-item-checkbox{}",
        "html": '<input type="password" name="password" placeholder="Password" autocomplete="current-password">',
        "minified": 'function(e,t){return e.token===t.key?e.password=t.password:null}var n={key:"a",token:o.token}',
        "python signature": "def login(self, username: str, password: str, token: str | None = None) -> bool:",
        "go signature": "func Login(ctx context.Context, password string, apiKey string) error {",
        "rust signature": "fn auth(&self, password: &str, token: Option<String>) -> Result<()> {",
        "assert": 'expect(user.password).toBe("secret"); assert token == "abc"',
        "kwargs": "client = Client(api_key=api_key, password=password, token=self.token)",
        "max tokens": 'max_tokens=4096, "input_tokens": 12345, num_tokens: 77, total_tokens=100000',
        "special tokens": '{"eos_token": "<|endoftext|>", "pad_token": "<pad>", "bos_token_id": 50256}',
        "sort": 'sorted(rows, key=lambda row: row["key"]); {"key": "value-with-dashes", "primary_key": "id"}',
        "label": '{"password": "Password", "passwordHint": "At least 8 characters", "token": "Token"}',
        "error code": 'throw new Error("auth/invalid-password"); code: "INVALID_TOKEN_ERROR_42"',
        "regex": "passwordPattern = /^(?=.*[A-Z])(?=.*\\d)[A-Za-z\\d]{8,}$/",
        "secret ref": "valueFrom: {secretKeyRef: {name: db-credentials, key: password}}",
        "secret name": "secretName: my-app-tls-secret\ntokenUrl: https://auth.acme.dev/oauth/token",
        "url port": "http://localhost:8080/@vite/client https://acme.dev:443/a@b",
        "default url": "postgres://postgres:postgres@localhost:5432/postgres",
        "url variable": "postgres://${DB_USER}:${DB_PASS}@${DB_HOST}/x",
        "version": 'version = "1.2.3.4"; Chrome/120.0.6099.5 foo==10.4.2.1',
        "private ip": "listening on 192.168.1.17:8080, 10.0.3.4, 127.0.0.1, 172.16.0.9, 0.0.0.0, 203.0.113.7",
        "noreply": "Co-authored-by: Bot <12345+bot@users.noreply.github.com>, a@example.com, git@github.com:a/b.git",
        "generic homes": "/home/user/x /home/runner/work /home/ubuntu /home/node/app /Users/Shared",
        "routes": 'import x from "@/home/page"; <Route path="/home/dashboard" />; src/home/index.ts',
        "decorator": "\n@pytest.fixture\ndef x(): ...\nicon@2x.png lodash@4.17.21 @types/node@20.1.0",
        "docs key": "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "public key": f"-----BEGIN PUBLIC KEY-----\n{of(BASE64, 64)}\n-----END PUBLIC KEY-----",
        "ssh public": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{of(BASE64, 43)} host",
        "uv lock": f'{{ url = "https://files.acme.dev/packages/{sha[:2]}/{sha256[:60]}/x", hash = "sha256:{sha256}" }}',
        "cache key": f"cacheKey: {sha256}\nkey: linux-node-{sha256}",
        "etag": f'etag: W/"{of(HEX, 32)}"\nx-request-id: {uuid}',
        "jwt doc": "Authorization: Bearer <token>; the JWT looks like header.payload.signature",
        "i18n": 'password: "Enter your password", apiKey: "API key is required", token: t("auth.token")',
        "destructuring": "const { token, password, apiKey = defaultApiKey } = useAuth();",
        "sql": "CREATE TABLE u (password VARCHAR(255) NOT NULL, token TEXT UNIQUE, api_key CHAR(40));",
        "argparse": 'parser.add_argument("--password", help="the password"); parser.add_argument("--api-key")',
        "pydantic": "password: SecretStr = Field(..., min_length=8)\ntoken: Annotated[str, Depends(oauth2_scheme)]",
        "usage": "usage: tool [--token TOKEN] [--password PASSWORD] [-u USER:PASS]",
    }  # fmt: skip
    return made | {f"{kind}, 2": text for kind, text in redaction_sets.look_alikes(rng).items()}


def escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


FORMS: dict[str, Callable[[str], str]] = {
    "raw": lambda text: text,
    "escaped": lambda text: '{"output": "' + escaped("$ run\n" + text + "\n") + '"}',
    "twice": lambda text: '"' + escaped('{"output": "' + escaped("$ run\n" + text + "\n") + '"}') + '"',
}


def covered(text: str, secret: str) -> float:
    """Share of the secret's characters that findings cover."""
    at = text.index(secret)
    hidden = {i for found in find(text) for i in range(max(found.start, at), min(found.end, at + len(secret)))}
    return len(hidden) / len(secret)


def code(size: int) -> list[str]:
    """Invented code and logs."""
    rng = random.Random(7)
    lines = [text for text in look_alikes(rng).values() if len(text) < 300] + [
        "2025-01-17T12:03:04.123Z INFO  worker[12] processed 1024 rows in 0.53 s (queue=default)",
        "    for index, (name, value) in enumerate(sorted(self.items.items(), key=lambda item: item[1])):",
        '  File "/usr/lib/python3.11/site-packages/requests/adapters.py", line 501, in send',
        "export function useUser(id: string): Promise<User | undefined> { return cache.get(id) ?? load(id); }",
        "test result: ok. 45 passed; 0 failed; 2 ignored; 0 measured; finished in 3.21s",
        "        return self._client.post(url, json=payload, headers={'Content-Type': 'application/json'})",
        "diff --git a/src/app/main.py b/src/app/main.py\nindex 83db48f..bf2a1c3 100644\n@@ -10,6 +10,7 @@",
        "The parser reads each line once, keeps the offsets, and hands over what it found to the assembler.",
    ] * 300  # fmt: skip; one line in nine is a look-alike, more than in real sessions
    texts, total = [], 0
    while total < size:
        text = "\n".join(rng.choices(lines, k=rng.choice((2, 10, 60))))
        texts.append(text)
        total += len(text)
    return texts


def strings(path: Path) -> list[str]:
    """All texts in the JSON of session files."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)

    for file in sorted(path.rglob("*.json*")):
        text = file.read_text(encoding="utf-8", errors="replace")
        for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
            try:
                walk(json.loads(part))
            except ValueError:
                found.append(part)
    return found


def speed(name: str, texts: list[str]) -> None:
    size = sum(map(len, texts))
    redact_text("warm up")
    began = time.process_time()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(redact_text(text)[1])
    spent = time.process_time() - began
    print(
        f"{name:16} {size / 1e6:8.1f} MB {len(texts):9,} texts {size / 1e6 / spent:8.1f} MB/s, "
        f"{sum(counts.values()):,} replaced"
    )


def rows(texts: list[str]) -> list[dict[str, object]]:
    """Rows of 60 messages, half of them calls of tools, from texts of 50 to 2000 characters."""
    pieces = [text[at : at + 50 + at % 1950] for text in texts for at in range(0, len(text), 2000)]
    found = []
    for first in range(0, len(pieces) - 60, 60):
        messages: list[dict[str, object]] = []
        for number, piece in enumerate(pieces[first : first + 60]):
            if number % 2:
                messages.append({"role": "tool", "tool_call_id": f"call_{number}", "name": "Bash", "content": piece})
                continue
            call = {"name": "Bash", "arguments": {"command": piece[:80], "timeout": 5}}
            calls = [{"id": f"call_{number + 1}", "type": "function", "function": call}]
            messages.append({"role": "assistant", "content": piece, "tool_calls": calls})
        found.append({"cwd": "/home/marta17/app", "messages": messages})
    return found


def speed_of_rows(texts: list[str]) -> None:
    made = rows(texts)
    size = sum(len(json.dumps(row["messages"])) for row in made)
    redactor = Redactor()
    redactor.row(made[0])
    began = time.process_time()
    counts: Counter[str] = Counter()
    for row in made:
        counts.update(redactor.row(row)["redactions"])
    spent = time.process_time() - began
    print(
        f"{'rows':16} {size / 1e6:8.1f} MB {len(made):9,} rows  {size / 1e6 / spent:8.1f} MB/s, "
        f"{sum(counts.values()):,} replaced"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--verbose", action="store_true", help="what is missed and touched")
    options = parser.parse_args()
    missed: Counter[tuple[str, str]] = Counter()
    touched: Counter[str] = Counter()
    shown: dict[str, str] = {}
    kinds = alike = 0
    for seed in range(options.seeds):
        made = secrets(random.Random(seed))
        kinds = len(made)
        for form, wrap in FORMS.items():
            for kind, (text, secret) in made.items():
                deep = secret
                for _ in range(list(FORMS).index(form)):
                    deep = escaped(deep)
                if covered(wrap(text), deep) < 0.8:
                    missed[form, kind] += 1
        others = look_alikes(random.Random(seed))
        alike = len(others)
        for kind, text in others.items():
            for wrap in FORMS.values():
                if (result := redact_text(wrap(text)))[1]:
                    touched[kind] += 1
                    shown[kind] = result[0]
    print(f"{kinds} kinds of secret, {alike} of look-alike, {options.seeds} of each")
    for form in FORMS:
        lost = sum(count for (where, _), count in missed.items() if where == form)
        print(f"recall, {form:8} {1 - lost / kinds / options.seeds:8.2%}")
    print(f"look-alikes touched {sum(touched.values()) / alike / options.seeds / len(FORMS):8.2%}")
    if options.verbose:
        for (form, kind), count in sorted(missed.items(), key=lambda item: item[0][::-1]):
            print(f"  missed {form:8} {kind:24} {count}")
        for kind, count in touched.items():
            print(f"  touched {kind:24} {count}: {shown[kind][:160]}")
    texts = code(20_000_000)
    speed("code and logs", texts)
    speed_of_rows(texts)
    if options.text:
        texts = strings(options.text)
        speed("sessions", texts)
        speed("of 500 and more", [text for text in texts if len(text) >= 500])


if __name__ == "__main__":
    main()
