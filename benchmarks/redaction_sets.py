# ruff: noqa: E501
"""A second set of secrets and look-alikes: where agents meet them (files, logs, commands), and more vendors.

Written in three parts from vendors' formats and the kinds that gitleaks and trufflehog name, by someone who had read
the rules. Before the rules were mended after a part, it was covered to 90, 80 and 91 %, and 0.7, 4.8 and 0.7 % of its
look-alikes were touched; of a fourth set, by someone who had not read them, 92 and 0.7 %; of a fifth, by the same
hand who had read them by then, 84 and 1.7 %. That, and not what the benchmark prints today, is what to expect of unseen text.
"""

from __future__ import annotations

import base64
import json
import random
import string

BASE62 = string.ascii_letters + string.digits
BASE64 = BASE62 + "+/"
URLSAFE = BASE62 + "-_"
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
LOWER = string.ascii_lowercase + string.digits
WORDS = [
    "river",
    "stone",
    "copper",
    "maple",
    "falcon",
    "winter",
    "garden",
    "rocket",
    "silver",
    "ocean",
    "tiger",
    "lantern",
    "meadow",
    "breeze",
]


class Maker:
    """Draws letters."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def of(self, letters: str, length: int) -> str:
        return "".join(self.rng.choices(letters, k=length))

    def b62(self, length: int) -> str:
        return self.of(BASE62, length)

    def hex(self, length: int) -> str:
        return self.of(HEX, length)

    def b64(self, length: int) -> str:
        return base64.b64encode(self.rng.randbytes(length)).decode()

    def url64(self, data: bytes | int) -> str:
        data = self.rng.randbytes(data) if isinstance(data, int) else data
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def uuid(self) -> str:
        return "-".join(self.hex(n) for n in (8, 4, 4, 4, 12))

    def word(self) -> str:
        return self.rng.choice(WORDS)

    def human(self) -> str:
        """A password as people make them: Maple!Tiger82, f4lcon_Stone7, r0cketGarden#19."""
        a, b = self.word().capitalize(), self.word()
        leet = a.replace("o", "0").replace("a", "4").replace("e", "3")
        form = self.rng.choice(("{a}!{b}{n}", "{l}_{b}{n}", "{l}{b}#{n}", "{b}{n}{a}!", "{l}@{n}{b}"))
        return form.format(a=a, b=b, l=leet, n=self.rng.randrange(10, 99))

    def drawn(self) -> str:
        """A password as a program makes them."""
        return self.of(BASE62, 6) + self.rng.choice("!#%^*-_") + self.of(BASE62, 9) + self.rng.choice("0123456789")

    def pem(self, kind: str, lines: int = 10, end: str = "\n") -> str:
        body = end.join(self.of(BASE64, 64) for _ in range(lines))
        return f"-----BEGIN {kind}-----{end}{body}{end}{self.of(BASE64, 30)}=={end}-----END {kind}-----"

    def jwt(self, alg: str = "RS256", **claims: object) -> str:
        head = self.url64(json.dumps({"alg": alg, "typ": "JWT", "kid": self.hex(8)}).encode())
        body = self.url64(json.dumps({"iss": "acme", "sub": self.hex(12), **claims}).encode())
        return f"{head}.{body}.{self.of(URLSAFE, 86 if alg == 'ES256' else 342 if alg == 'RS256' else 43)}"


def secrets(rng: random.Random) -> dict[str, tuple[str, str]]:
    """Kind → (text, the secret in it)."""
    m = Maker(rng)
    of, b62, hex_ = m.of, m.b62, m.hex
    made: dict[str, tuple[str, str]] = {}

    def add(kind: str, secret: str, text: str = "got {} back") -> None:
        while kind in made:
            kind += ", more"
        # @@: the rest of an id of AWS, which in full would set off scanners of this file.
        made[kind] = (text.replace("@@", of(UPPER[:26] + "234567", 16)).replace("{}", secret), secret)

    # fmt: off
    # Vendors' tokens, as they stand in .env files, headers, code and logs
    add("adafruit", "aio_" + b62(28), 'ADAFRUIT_IO_KEY = "{}"')
    add("adobe secret", "p8e-" + b62(32))
    add("authress", "sc_" + of(LOWER, 9) + "." + of(LOWER, 4) + ".acc-" + of(LOWER, 10) + "." + of(BASE64, 60))
    add("castai", hex_(64), "CASTAI_API_TOKEN={}")
    add("clickhouse cloud", "4b1d" + b62(38), "key secret: {}")
    add("codecov", m.uuid(), "CODECOV_TOKEN: {}")
    add("coinbase", of(BASE62, 64), "coinbase_api_secret = '{}'")
    add("defined networking", "dnkey-" + of(UPPER, 26) + "-" + of(UPPER, 52))
    add("dropbox short", "sl." + of(URLSAFE, 136), "DROPBOX_TOKEN={}")
    add("fastly", of(URLSAFE, 32), "Fastly-Key: {}")
    add("freemius", "sk_" + of(LOWER, 29), '"secret_key" => "{}"')
    add("harness", "pat." + of(URLSAFE, 22) + "." + hex_(24) + "." + b62(20))
    add("heroku new", "HRKU-AA" + of(URLSAFE, 58))
    add("infracost", "ico-" + b62(32))
    add("intra42", "s-s4t2ud-" + hex_(64))
    add("maxmind", b62(6) + "_" + b62(29) + "_mmk", "AccountID 12\nLicenseKey {}")
    add("perplexity", "pplx-" + hex_(48), "Authorization: Bearer {}")
    add("rapidapi", hex_(10) + "msh" + hex_(15) + "p1" + hex_(6) + "jsn" + hex_(12), "X-RapidAPI-Key: {}")
    add("settlemint", "sm_pat_" + b62(16))
    add("sidekiq", f"{hex_(8)}:{hex_(8)}", "BUNDLE_ENTERPRISE__CONTRIBSYS__COM={}")
    add("sumologic", b62(64), 'SUMO_ACCESS_KEY="{}"')
    add("twitch", of(LOWER, 30), "TWITCH_CLIENT_SECRET={}")
    add("zendesk", b62(40), "ZENDESK_API_TOKEN: {}")
    add("github app key", m.pem("RSA PRIVATE KEY", end="\\n"), 'GITHUB_APP_PRIVATE_KEY="{}"')
    add("github oauth in remote", "gho_" + b62(36), "origin  https://x-access-token:{}@github.com/acme/app.git (fetch)")
    add("gitlab ci job", "glcbt-64_" + of(URLSAFE, 20), "CI_JOB_TOKEN={}")
    add("gitlab runner", "glrt-" + of(URLSAFE, 20), '  token = "{}"')
    add(
        "gitlab deploy in remote",
        "gldt-" + of(URLSAFE, 20),
        "git clone https://gitlab+deploy-token-1:{}@gitlab.com/a/b.git",
    )
    add("gitlab routable", "glpat-" + of(URLSAFE, 27) + ".01." + of(LOWER, 9), "PRIVATE-TOKEN: {}")
    add("bitbucket app password", "ATBB" + b62(24) + hex_(8).upper(), "https://build-bot:{}@bitbucket.org/acme/app.git")
    add(
        "azure devops in url",
        of("abcdefghijklmnopqrstuvwxyz234567", 52),
        "https://build:{}@dev.azure.com/acme/_git/app",
    )
    add("azure openai", hex_(32), "AZURE_OPENAI_API_KEY={}")
    add("azure cosmos", m.b64(64), "AccountEndpoint=https://x.documents.azure.com:443/;AccountKey={};")
    add("azure app config", m.b64(32), "Endpoint=https://x.azconfig.io;Id=ab-l0-s0:Q;Secret={}")
    add("azure iot", m.b64(32), "HostName=x.azure-devices.net;DeviceId=d1;SharedAccessKey={}")
    add("azure function", of(URLSAFE, 54) + "==", "https://x.azurewebsites.net/api/run?code={}")
    add(
        "azure sas blob",
        m.url64(32) + "%3D",
        "https://x.blob.core.windows.net/c/f?sp=r&st=2024-01-01&se=2025-01-01&spr=https&sv=2022-11-02&sr=b&sig={}",
    )
    add(
        "aws config",
        of(BASE64, 40),
        "[default]\naws_access_key_id = AKIA@@\naws_secret_access_key = {}\n",
    )
    add(
        "aws sts json",
        of(BASE64, 40),
        '"Credentials": {"AccessKeyId": "ASIA@@", "SecretAccessKey": "{}", "Expiration": "x"}',
    )
    add("aws session export", "FwoGZXIvYXdzE" + of(BASE64, 240) + "==", "export AWS_SESSION_TOKEN={}")
    add(
        "aws presigned",
        hex_(64),
        "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&X-Amz-Signature={}",
    )
    add("aws js sdk", of(BASE64, 40), "new S3Client({ credentials: { accessKeyId: id, secretAccessKey: '{}' } })")
    add("aws boto", of(BASE64, 40), 'boto3.client("s3", aws_secret_access_key="{}")')
    add("aws ses smtp", "B" + of(BASE64, 43), "SMTP_PASSWORD={}")
    add("gcp api key in url", "AIza" + of(URLSAFE, 35), "https://maps.googleapis.com/maps/api/js?key={}&callback=init")
    add("gcp access token", "ya29.a0" + of(URLSAFE, 180), "$ gcloud auth print-access-token\n{}\n")
    add("gcp refresh token", "1//0" + of(URLSAFE, 60), '"refresh_token": "{}"')
    add("gcp hmac", of(BASE64, 40), "gs_secret_access_key = {}")
    add("firebase fcm", "AAAA" + of(URLSAFE, 7) + ":APA91b" + of(URLSAFE, 134))
    add("gemini", "AIza" + of(URLSAFE, 35), "genai.configure(api_key='{}')")
    add("openai legacy", "sk-" + b62(48), 'openai.api_key = "{}"')
    add("openai admin", "sk-admin-" + of(URLSAFE, 80))
    add("openai masked log", "sk-proj-" + of(URLSAFE, 120), "Incorrect API key provided: {}. You can find your key at")
    add("anthropic oauth", "sk-ant-oat01-" + of(URLSAFE, 86) + "AA", '"accessToken":"{}"')
    add("anthropic header", "sk-ant-api03-" + of(URLSAFE, 95), '-H "x-api-key: {}" -H "anthropic-version: 2023-06-01"')
    add("anthropic admin", "sk-ant-admin01-" + of(URLSAFE, 86) + "AA")
    add("hugging face cli", "hf_" + of(BASE62, 34), "huggingface-cli login --token {}")
    add("groq go", "gsk_" + b62(52), 'client := groq.New("{}")')
    add("xai env", "xai-" + b62(80), "XAI_API_KEY={}")
    add("deepseek", "sk-" + hex_(32), "DEEPSEEK_API_KEY={}")
    add("mistral yaml", b62(32), "mistral:\n  api_key: {}\n")
    add("cohere env", b62(40), "CO_API_KEY={}")
    add("replicate", "r8_" + b62(37), "REPLICATE_API_TOKEN={}")
    add("together", hex_(64), "TOGETHER_API_KEY={}")
    add("moonshot", "sk-" + b62(48), "MOONSHOT_API_KEY={}")
    add("dashscope", "sk-" + hex_(32), "export DASHSCOPE_API_KEY='{}'")
    add("zhipu", hex_(32) + "." + b62(16), "ZHIPUAI_API_KEY={}")
    add("assemblyai", hex_(32), 'aai.settings.api_key = "{}"')
    add("deepgram", hex_(40), "Authorization: Token {}")
    add("elevenlabs", hex_(32), "xi-api-key: {}")
    add("stability", "sk-" + b62(48), "STABILITY_KEY={}")
    add("wandb legacy", hex_(40), "wandb login {}")
    add("wandb netrc", hex_(40), "machine api.wandb.ai\n  login user\n  password {}\n")
    add("comet", b62(25), "COMET_API_KEY={}")
    add("pinecone", m.uuid(), 'pinecone.init(api_key="{}", environment="us-west1")')
    add("qdrant", m.jwt("HS256", access="m"), "QDRANT_API_KEY={}")
    add("langfuse", "sk-lf-" + m.uuid(), "LANGFUSE_SECRET_KEY={}")
    add("serpapi", hex_(64), "https://serpapi.com/search?q=x&api_key={}")
    add("tavily dev", "tvly-dev-" + b62(32))
    add("stripe test", "sk_test_51" + b62(97), "Stripe.api_key = '{}'")
    add("stripe restricted", "rk_test_51" + b62(97))
    add("paypal", "E" + of(URLSAFE, 79), 'PAYPAL_CLIENT_SECRET="{}"')
    add("paypal bearer", "A21AA" + of(URLSAFE, 90), "Authorization: Bearer {}")
    add("square", "EAAA" + of(URLSAFE, 60), "SQUARE_ACCESS_TOKEN={}")
    add("shopify secret", "shpss_" + hex_(32), "SHOPIFY_API_SECRET={}")
    add("braintree", hex_(32), "BRAINTREE_PRIVATE_KEY={}")
    add("twilio sid and token", hex_(32), f"client = Client('AC{hex_(32)}', '{{}}')")
    add("twilio curl", hex_(32), f"curl -X POST https://api.twilio.com/x -u AC{hex_(32)}:{{}}")
    add("sendgrid curl", "SG." + of(URLSAFE, 22) + "." + of(URLSAFE, 43), "--header 'Authorization: Bearer {}'")
    add("mailgun curl", "key-" + hex_(32), "curl -s --user 'api:{}' https://api.mailgun.net/v3/x/messages")
    add("mailgun new", f"{hex_(32)}-{hex_(8)}-{hex_(8)}")
    add("mailchimp", hex_(32) + "-us6", "MAILCHIMP_API_KEY={}")
    add("datadog app key", hex_(40), "DD_APP_KEY={}")
    add("datadog header", hex_(32), "DD-API-KEY: {}")
    add("new relic license", hex_(36) + "NRAL", "license_key: {}")
    add("sentry dsn new", hex_(32), "SENTRY_DSN=https://{}@o123456.ingest.us.sentry.io/4506")
    add("sentry auth", "sntryu_" + hex_(64), "[auth]\ntoken={}")
    add("grafana service", "glsa_" + b62(32) + "_" + hex_(8), "curl -H 'Authorization: Bearer {}' http://g:3000/api")
    add("grafana cloud", "glc_" + m.b64(90))
    add("honeycomb", b62(22), "x-honeycomb-team: {}")
    add("pagerduty", "u+" + of(URLSAFE, 18), "Authorization: Token token={}")
    add("opsgenie", m.uuid(), "Authorization: GenieKey {}")
    add("linear", "lin_api_" + b62(40), 'new LinearClient({ apiKey: "{}" })')
    add("notion old", "secret_" + b62(43), "NOTION_TOKEN={}")
    add("airtable old", "key" + b62(14), "AIRTABLE_API_KEY={}")
    add("figma", "figd_" + of(URLSAFE, 40), "X-Figma-Token: {}")
    add("jira basic", m.url64(f"ci-bot@acme.dev:ATATT3{b62(40)}".encode()), "Authorization: Basic {}")
    add("asana", f"2/{of(string.digits, 16)}/{of(string.digits, 16)}:{hex_(32)}")
    add("trello", "ATTA" + hex_(64) + hex_(8).upper(), "TRELLO_TOKEN={}")
    add(
        "telegram url",
        f"{rng.randrange(10**9, 10**10)}:AA{of(URLSAFE, 33)}",
        "https://api.telegram.org/bot{}/sendMessage",
    )
    add("discord bot env", f"MT{b62(24)}.G{b62(5)}.{of(URLSAFE, 38)}", "DISCORD_TOKEN={}")
    add(
        "discord webhook",
        f"{of(string.digits, 19)}/{of(URLSAFE, 68)}",
        "DISCORD_WEBHOOK=https://discord.com/api/webhooks/{}",
    )
    add(
        "slack webhook json",
        f"T0{of(UPPER, 9)}/B0{of(UPPER, 9)}/{b62(24)}",
        '"url": "https://hooks.slack.com/services/{}"',
    )
    add("slack user", f"xoxp-{of(string.digits, 12)}-{of(string.digits, 12)}-{of(string.digits, 13)}-{hex_(32)}")
    add("slack legacy signing", hex_(32), "SLACK_SIGNING_SECRET={}")
    add(
        "teams webhook",
        f"{m.uuid()}@{m.uuid()}/IncomingWebhook/{hex_(32)}/{m.uuid()}",
        "https://acme.webhook.office.com/webhookb2/{}",
    )
    add("zapier hook", f"{of(string.digits, 7)}/{of(LOWER, 7)}", "https://hooks.zapier.com/hooks/catch/{}/")
    add("zoom", b62(32), "ZOOM_CLIENT_SECRET={}")
    add("okta", "00" + of(URLSAFE, 40), "Authorization: SSWS {}")
    add("auth0", of(URLSAFE, 64), "AUTH0_CLIENT_SECRET={}")
    add("vault old", "s." + b62(24), "VAULT_TOKEN={}")
    add("vault unseal", m.b64(33), "Unseal Key 1: {}")
    add("vault approle", m.uuid(), "vault write auth/approle/login role_id=web secret_id={}")
    add("consul", m.uuid(), "X-Consul-Token: {}")
    add("nomad", m.uuid(), "NOMAD_TOKEN={}")
    add("tfe credentials", b62(14) + ".atlasv1." + b62(60), 'credentials "app.terraform.io" {\n  token = "{}"\n}')
    add("pulumi", "pul-" + hex_(40), "export PULUMI_ACCESS_TOKEN={}")
    add("doppler service", "dp.st.prd." + b62(40), "DOPPLER_TOKEN={}")
    add("snowflake", m.human(), 'snowflake.connector.connect(user="etl", password="{}", account="x")')
    add("databricks cfg", "dapi" + hex_(32), "[DEFAULT]\nhost = https://x.cloud.databricks.com\ntoken = {}\n")
    add("supabase service", m.jwt("HS256", role="service_role"), "SUPABASE_SERVICE_ROLE_KEY={}")
    add("vercel", b62(24), "VERCEL_TOKEN={}")
    add("vercel flag", b62(24), "vercel deploy --prod --token={}")
    add("netlify", "nfp_" + b62(36), "NETLIFY_AUTH_TOKEN={}")
    add("cloudflare global", hex_(37), "X-Auth-Key: {}")
    add(
        "cloudflare tunnel",
        m.url64(json.dumps({"a": hex_(32), "t": m.uuid(), "s": m.b64(32)}).encode()),
        "cloudflared tunnel run --token {}",
    )
    add("digitalocean", "dop_v1_" + hex_(64), 'provider "digitalocean" { token = "{}" }')
    add("linode", hex_(64), "LINODE_TOKEN={}")
    add("hetzner", b62(64), 'hcloud_token = "{}"')
    add("ngrok", "2" + b62(26) + "_" + b62(21), "ngrok config add-authtoken {}")
    add("npmrc password", m.b64(18), "//npm.acme.dev/:_password={}")
    add("npmrc auth", m.b64(30), "_auth={}")
    add("pypirc", "pypi-AgEIcHlwaS5vcmcC" + of(URLSAFE, 140), "[pypi]\nusername = __token__\npassword = {}\n")
    add("twine env", m.human(), "TWINE_PASSWORD={}")
    add("artifactory", "AKCp" + b62(69), "X-JFrog-Art-Api: {}")
    add("artifactory identity", "cmVmdGtu" + b62(56), "curl -ubot:{} https://acme.jfrog.io/x")
    add(
        "docker config",
        base64.b64encode(f"ci:{m.drawn()}".encode()).decode(),
        '{\n\t"auths": {\n\t\t"ghcr.io": {\n\t\t\t"auth": "{}"\n\t\t}\n\t}\n}',
    )
    add("docker login", m.drawn(), "docker login -u ci -p {} registry.acme.dev")
    add("crates credentials", "cio" + b62(32), '[registry]\ntoken = "{}"')
    add("nuget", "oy2" + of(LOWER, 43), "dotnet nuget push x.nupkg --api-key {} --source nuget.org")
    add("nuget config", m.drawn(), '<add key="ClearTextPassword" value="{}" />')
    add("gem credentials", "rubygems_" + hex_(48), ":rubygems_api_key: {}")
    add("maven settings", m.human(), "<server><id>c</id><username>ci</username><password>{}</password></server>")
    add("gradle properties", m.human(), "signing.password={}")
    add("android keystore", m.human(), 'storePassword "{}"')
    add(
        "fastlane",
        "-".join(of(string.ascii_lowercase, 4) for _ in range(4)),
        "FASTLANE_APPLE_APPLICATION_SPECIFIC_PASSWORD={}",
    )
    add("postman", f"PMAK-{hex_(24)}-{hex_(34)}", "X-Api-Key: {}")
    add("launchdarkly", "sdk-" + m.uuid(), "LD_SDK_KEY={}")
    add("algolia admin", hex_(32), "ALGOLIA_ADMIN_KEY={}")
    add("mapbox secret", "sk.eyJ" + of(URLSAFE, 60) + "." + of(URLSAFE, 22), "MAPBOX_SECRET={}")
    add("amplitude", hex_(32), "AMPLITUDE_SECRET_KEY={}")
    add("segment", b62(32), 'writeKey: "{}"')
    add("intercom", "dG9rO" + m.b64(40)[:55], "INTERCOM_TOKEN={}")
    # Where agents meet them
    add(".env export quoted", m.human(), "export DB_PASS='{}'\n")
    add(".env with comment", m.drawn().replace("#", "_"), "REDIS_PASSWORD={}  # prod\n")
    add("env output", m.human(), "SHELL=/bin/bash\nPWD=/app\nMYSQL_ROOT_PASSWORD={}\nHOME=/root\n")
    add("windows set", m.human().replace("!", "_"), "set DB_PASSWORD={}\r\n")
    add("powershell env", m.drawn(), '$env:API_SECRET = "{}"')
    add("compose environment", m.human(), "    environment:\n      POSTGRES_USER: app\n      POSTGRES_PASSWORD: {}\n")
    add("compose list", m.human(), "    environment:\n      - MYSQL_PASSWORD={}\n      - TZ=UTC\n")
    add(
        "k8s secret data",
        base64.b64encode(m.drawn().encode()).decode(),
        "kind: Secret\nmetadata:\n  name: db\ndata:\n  password: {}\n",
    )
    add(
        "k8s secret other key",
        base64.b64encode(m.human().encode()).decode(),
        "apiVersion: v1\nkind: Secret\ntype: Opaque\ndata:\n  db-pass: {}\n",
    )
    add("k8s stringData", m.human(), "kind: Secret\nstringData:\n  smtp_password: {}\n")
    add(
        "k8s get -o json",
        base64.b64encode(m.b62(32).encode()).decode(),
        '{"apiVersion": "v1", "data": {"api-token": "{}"}, "kind": "Secret"}',
    )
    add("kubectl create", m.human(), "kubectl create secret generic db --from-literal=password={}")
    add("helm set", m.human().replace("!", "_"), "helm upgrade x ./x --set postgresql.auth.password={} --wait")
    add("kubeconfig", m.jwt("RS256"), "users:\n- name: admin\n  user:\n    token: {}\n")
    add(
        "kubeconfig key data",
        base64.b64encode(m.pem("EC PRIVATE KEY", 3).encode()).decode(),
        "    client-key-data: {}\n",
    )
    add("terraform tfvars", m.human(), 'db_password = "{}"\n')
    add(
        "terraform state",
        m.drawn(),
        '"type": "random_password",\n"attributes": {"length": 16, "result": "{}", "special": true}',
    )
    add("terraform state db", m.drawn(), '"attributes": {"engine": "postgres", "password": "{}", "port": 5432}')
    add("ansible vars", m.human(), "ansible_become_pass: {}\n")
    add("ansible inventory", m.human(), "web1 ansible_host=10.0.0.4 ansible_user=root ansible_ssh_pass={}\n")
    add("toml section", m.drawn(), '[database]\nuser = "app"\npassword = "{}"\n')
    add("ini spaces", m.human(), "[mysqld]\nuser = app\npassword = {}\n")
    add("my.cnf", m.drawn().replace("#", "_"), "[client]\nuser=root\npassword={}\n")
    add("pgpass", m.human(), "db.acme.dev:5432:main:app:{}\n")
    add("pgpass any", m.human(), "*:*:*:postgres:{}\n")
    add("netrc lines", m.human(), "machine git.acme.dev\nlogin ci\npassword {}\n")
    add("git credentials", m.b62(20), "https://ci:{}@git.acme.dev\n")
    add("git remote -v", m.b62(24), "origin\thttps://oauth2:{}@git.acme.dev/a/b.git (push)")
    add("postgres dsn", m.human().replace("#", "_").replace("@", "_"), "postgresql+asyncpg://app:{}@10.0.3.7:5432/main")
    add("postgres keywords", m.human(), "host=db.acme.dev port=5432 dbname=main user=app password={} sslmode=require")
    add("mysql dsn go", m.b62(14), '"app:{}@tcp(db.acme.dev:3306)/main?parseTime=true"')
    add("mongodb", m.b62(18), "MONGO_URI=mongodb://root:{}@mongo:27017/admin?authSource=admin")
    add("redis", m.hex(32), "REDIS_URL=rediss://default:{}@x.upstash.io:6379")
    add("rabbitmq", m.b62(16), "amqps://svc:{}@rmq.acme.dev:5671/prod")
    add("mssql", m.human(), "Data Source=tcp:db.acme.dev,1433;Initial Catalog=x;User ID=sa;Password={};Encrypt=True")
    add("mssql pwd", m.human(), "DRIVER={ODBC Driver 18};SERVER=db;UID=sa;PWD={};TrustServerCertificate=yes")
    add("oracle", m.b62(12), "sqlplus system/{}@//db.acme.dev:1521/ORCL")
    add("jdbc user", m.human().replace("#", "_").replace("@", "_"), "jdbc:postgresql://db/x?user=app&password={}")
    add("spring", m.human(), "spring.datasource.password={}\n")
    add("spring yaml", m.human(), "spring:\n  datasource:\n    username: app\n    password: {}\n")
    add("rails database.yml", m.drawn().replace("#", "_"), "production:\n  adapter: postgresql\n  password: {}\n")
    add("rails master key", m.hex(32), "RAILS_MASTER_KEY={}")
    add(
        "django secret",
        "".join(m.of("abcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*(-_=+)", 50)).replace("$", "a").replace("#", "b"),
        "SECRET_KEY = 'django-insecure-{}'",
    )
    add("flask", m.hex(48), 'app.secret_key = "{}"')
    add("laravel", "base64:" + m.b64(32), "APP_KEY={}")
    add("jwt secret", m.b62(48), "JWT_SECRET={}")
    add("nextauth", m.b64(32), "NEXTAUTH_SECRET={}")
    add("session js", m.drawn(), "app.use(session({ secret: '{}', resave: false }))")
    add(
        "wp-config",
        m.of(BASE62 + "!@%^&*()-_[]{}|;:,.<>?~+=".replace("{}", "").replace("<", "").replace(">", ""), 64),
        "define('AUTH_KEY', '{}');",
    )
    add("php define", m.human(), "define( 'DB_PASSWORD', '{}' );")
    add("php array", m.human(), "'password' => '{}',")
    add("python dict", m.human(), 'DATABASES = {"default": {"USER": "app", "PASSWORD": "{}"}}')
    add("python kwarg", m.drawn(), 'paramiko.connect(host, username="root", password="{}")')
    add("python tuple auth", m.human(), 'requests.get(url, auth=("admin", "{}"))')
    add("python environ", m.b62(32), 'os.environ["STRIPE_WEBHOOK_SECRET"] = "{}"')
    add("js object", m.human(), "mysql.createConnection({ host: 'db', user: 'app', password: '{}' })")
    add("js header", m.b62(40), "headers: { 'X-Auth-Token': '{}' }")
    add("go literal", m.b62(32), 'const apiToken = "{}"')
    add("go struct", m.human(), 'Config{User: "app", Password: "{}"}')
    add("rust literal", m.b62(40), 'let api_key: &str = "{}";')
    add("java literal", m.drawn(), 'private static final String DB_PASSWORD = "{}";')
    add("csharp appsettings", m.b62(44), '{"Jwt": {"Key": "{}", "Issuer": "acme"}}')
    add("shell variable", m.drawn(), 'PASS="{}"\ncurl $URL')
    add("ruby hash", m.human(), "password: '{}',")
    add("curl bearer", m.of(URLSAFE, 43), 'curl -H "Authorization: Bearer {}" https://x.dev')
    add(
        "curl data",
        m.human(),
        'curl -d \'{"username":"admin","password":"{}"}\' https://x.dev/login'.replace("{}", "\0").replace("\0", "{}"),
    )
    add(
        "curl form",
        m.human().replace("#", "_").replace("@", "_").replace("!", "_"),
        "curl -d 'user=admin&password={}' https://x.dev/login",
    )
    add("curl cookie", m.hex(32), "curl -b 'session={}' https://x.dev")
    add(
        "http trace",
        m.jwt("RS256"),
        "> GET /v1 HTTP/1.1\n> Host: x.dev\n> authorization: Bearer {}\n> accept: */*\n< HTTP/1.1 200",
    )
    add(
        "http basic trace",
        base64.b64encode(f"admin:{m.human()}".encode()).decode(),
        "* Server auth using Basic with user 'admin'\n> Authorization: Basic {}\n",
    )
    add("oauth response", m.of(URLSAFE, 60), '{"access_token":"{}","token_type":"Bearer","expires_in":3599}')
    add("oauth refresh form", m.of(URLSAFE, 50), "grant_type=refresh_token&client_id=abc&refresh_token={}")
    add("set-cookie", m.url64(40), "set-cookie: __Secure-next-auth.session-token={}; Path=/; HttpOnly; Secure")
    add("cookie header rails", m.url64(60) + "--" + hex_(40), "Cookie: _acme_session={}; locale=en")
    add("log line", m.human(), "2025-02-03 10:11:12 DEBUG auth: login user=admin password={} ok")
    add("log token", m.b62(40), 'level=debug msg="refreshed" access_token={} ttl=3600')
    add("log repr", m.drawn(), "Settings(db_host='db', db_password='{}', debug=True)")
    add("prose", m.human(), "The admin password is {} for now.")
    add("prose root", m.human(), "login with root / password: {}\n")
    add(
        "ssh key cut",
        m.pem("OPENSSH PRIVATE KEY", 24).rsplit("\n", 9)[0],
        "$ cat ~/.ssh/id_ed25519\n{}\n[output truncated]",
    )
    add("ssh key cut inside a line", m.pem("RSA PRIVATE KEY", 14)[:-260], "{}…")
    add("ssh key tail", m.pem("RSA PRIVATE KEY", 12).split("\n", 3)[3], "$ tail -n 12 id_rsa\n{}\n")
    add("pem escaped", m.pem("PRIVATE KEY", 16, "\\n"), '"private_key": "{}\\n", "client_email": "x"')
    add("pem in yaml", m.pem("RSA PRIVATE KEY", 8, "\n    "), "tls:\n  key: |\n    {}\n")
    add("pem quoted lines", m.pem("EC PRIVATE KEY", 3, '\\n" +\n    "'), 'String key = "{}";')
    add("pem diff", m.pem("RSA PRIVATE KEY", 8, "\n+"), "+++ b/key.pem\n+{}\n")
    add("pem base64 env", base64.b64encode(m.pem("RSA PRIVATE KEY", 6).encode()).decode(), "TLS_KEY_B64={}")
    add("pgp", m.pem("PGP PRIVATE KEY BLOCK", 12), "gpg --export-secret-keys -a\n{}")
    add("age", "AGE-SECRET-KEY-1" + of("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58), "# public key: age1x\n{}\n")
    add(
        "putty",
        "\n".join(m.of(BASE64, 64) for _ in range(3)),
        "PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\nPrivate-Lines: 3\n{}\nPrivate-MAC: x",
    )
    add("jwk", of(URLSAFE, 43), '{"kty":"EC","crv":"P-256","x":"a","y":"b","d":"{}"}')
    add("ethereum key", "0x" + hex_(64), "PRIVATE_KEY={}")
    add("wifi", m.human(), 'network={\n  ssid="home"\n  psk="{}"\n}')
    add("wireguard psk", m.b64(32), "[Peer]\nPresharedKey = {}\n")
    add("htpasswd bcrypt", "$2y$05$" + b62(53), "ci:{}")
    add("shadow", "$6$" + b62(16) + "$" + b62(86), "root:{}:19000:0:99999:7:::")
    add("ldap", m.human(), "ldapsearch -D cn=admin -w '{}' -b dc=acme")
    add("openssl pass", m.b62(16), "openssl pkcs12 -in a.p12 -passin pass:{} -nodes")
    add("psql env", m.human().replace("!", "_"), "PGPASSWORD={} psql -h db -U app main")
    add("mysql --password", m.human(), "mysqldump --user=root --password={} main > x.sql")
    add("redis-cli", m.hex(24), "redis-cli -h cache -a {} ping")
    add("sshpass", m.human(), 'sshpass -p "{}" scp a root@h:/x')
    add("echo sudo", m.human(), "echo '{}' | sudo -S apt install x")
    add("create user", m.human().replace("#", "_"), "CREATE USER app WITH PASSWORD '{}';")
    add("alter user", m.human(), "ALTER USER 'root'@'localhost' IDENTIFIED BY '{}';")
    add("net use", m.human(), "net use Z: \\\\srv\\share /user:acme\\bob {}")
    add("gh secret", m.b62(30), 'gh secret set DEPLOY_KEY --body "{}"')
    add("aws configure", of(BASE64, 40), "AWS Secret Access Key [None]: {}\nDefault region name")
    add("gradle cli", m.b62(24), "./gradlew publish -PossrhPassword={}")
    add("mvn cli", m.b62(24), "mvn deploy -Dgpg.passphrase={}")
    add("url query token", m.b62(32), "GET /hook?token={}&x=1 HTTP/1.1")
    add("otp", of("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 32), "otpauth://totp/acme:me?secret={}&issuer=acme")
    add("smtp json", m.human(), '{"host":"smtp.acme.dev","port":587,"auth":{"user":"no","pass":"{}"}}')
    add("xml attribute", m.human(), '<dataSource user="app" password="{}"/>')
    add("web.config", m.human(), '<add name="x" connectionString="Server=db;Database=x;User Id=app;Password={};" />')
    add("properties dotted", m.human(), "quarkus.datasource.reactive.password={}\n")
    add("hcl vault", m.human(), 'resource "aws_db_instance" "x" {\n  username = "app"\n  password = "{}"\n}')
    add("ci yaml variables", m.b62(36), 'variables:\n  SONAR_TOKEN: "{}"\n')
    add("json api key camel", m.b62(32), '{"apiKey":"{}","region":"eu"}')
    add("filezilla", base64.b64encode(m.human().encode()).decode(), '<User>a</User><Pass encoding="base64">{}</Pass>')
    add("vscode sftp", m.human(), '"username": "root",\n"password": "{}",\n')
    # Unseen when the rules had been mended after the kinds above
    add("argv list", m.human(), 'subprocess.run(["mysql", "-u", "root", "--password={}", "main"])')
    add("argv list split", b62(32), 'subprocess.run(["tool", "--api-key", "{}"])')
    add("systemd", b62(40), "[Service]\nEnvironment=GITEA_TOKEN={}\nExecStart=/x")
    add("systemd quoted", m.human(), 'Environment="DB_PASSWORD={}"')
    add("crontab", b62(32), "*/5 * * * * API_KEY={} /usr/bin/job")
    add("dockerfile env", b62(36), "ENV NPM_TOKEN={}\nRUN npm ci")
    add("dockerfile arg", m.human(), "ARG DB_PASSWORD={}")
    add("docker inspect", m.human(), '"Env": ["PATH=/bin", "POSTGRES_PASSWORD={}", "LANG=C"]')
    add("printenv null", b62(40), "TERM=xterm\0SECRET_TOKEN={}\0HOME=/root")
    add("declare -x", m.human(), 'declare -x PGPASSWORD="{}"\n')
    add("fish", b62(32), "set -gx OPENROUTER_KEY {}\n")
    add("direnv", b62(32), 'export STRIPE_SECRET="{}"')
    add("nix", m.human(), 'services.x.password = "{}";')
    add("elixir", b62(64), 'config :app, AppWeb.Endpoint, secret_key_base: "{}"')
    add("clojure", m.human(), '{:dbtype "postgresql" :user "app" :password "{}"}')
    add("lua nginx", b62(32), 'proxy_set_header X-Api-Key "{}";')
    add("kotlin", m.human(), 'val password = "{}"')
    add("swift", b62(39), 'let apiKey: String = "{}"')
    add("dart", b62(39), "static const String apiKey = '{}';")
    add("scala", m.human(), 'val dbPassword: String = "{}"')
    add("perl", m.human(), "my $password = '{}';")
    add("r", b62(40), 'Sys.setenv(OPENAI_API_KEY = "{}")')
    add("matlab-like upper const", hex_(32), 'API_SECRET = "{}"  # TODO remove')
    add("c define", b62(32), '#define API_TOKEN "{}"')
    add("arduino wifi", m.human(), 'const char* WIFI_PASSWORD = "{}";')
    add("cpp", m.human(), 'conn.setPassword("{}");')
    add("cypress json", m.human(), '{"env": {"ADMIN_PASSWORD": "{}"}}')
    add("vite", b62(40), "VITE_SUPABASE_SERVICE_KEY={}")
    add("har", m.jwt("ES256"), '{"name": "authorization", "value": "Bearer {}"}')
    add("python headers repr", m.jwt("HS256"), "{'Accept': '*/*', 'Authorization': 'Bearer {}'}")
    add("rust debug", b62(32), 'Config { host: "x", api_key: Some("{}"), port: 1 }')
    add("go %+v", m.human(), "{Host:db Port:5432 User:app Password:{} SSL:false}")
    add("slog", b62(40), 'msg=login token={} user=a')
    add("traceback url", b62(16), "sqlalchemy.exc.OperationalError: could not connect postgresql://app:{}@10.1.2.3/main")
    add("websocket url", m.jwt("HS256"), "wss://x.dev/socket?token={}&v=2")
    add("ftp", m.human().replace("#","_").replace("@","_"), "ftp://deploy:{}@ftp.acme.dev/site")
    add("smtp url", b62(18), "smtps://bot%40acme.dev:{}@smtp.acme.dev:465")
    add("clickhouse url", b62(18), "clickhouse://default:{}@ch.acme.dev:9440/db")
    add("snowflake url", b62(18), "snowflake://etl:{}@acct/db/schema?warehouse=w")
    add("elastic url", b62(24), "https://elastic:{}@es.acme.dev:9243")
    add("kafka jaas", m.human(), 'sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="app" password="{}";')
    add("elastic apikey header", m.b64(45), "Authorization: ApiKey {}")
    add("rclone", of(URLSAFE,43), "[r]\ntype = sftp\nuser = a\npass = {}\n")
    add("s3cfg", of(BASE64,40), "[default]\naccess_key = AKIA@@\nsecret_key = {}\n")
    add("boto aws table", of(BASE64,40), "| SecretAccessKey  |  {}  |")
    add("csv accessKeys", of(BASE64,40), "Access key ID,Secret access key\nAKIA@@,{}\n")
    add("iam create output text", of(BASE64,40), "ACCESSKEY\tAKIA@@\t2024-01-01\t{}\tActive\tbob")
    add("cloudflare v1", "v1.0-"+hex_(24)+"-"+hex_(146))
    add("azure ad secret", b62(3)+"8Q~"+of(URLSAFE,34), "ARM_CLIENT_SECRET={}")
    add("azure sql", m.human(), "az sql server create -u sa --admin-password {} -n x")
    add("az login sp", b62(3)+"7Q~"+of(URLSAFE,34), "az login --service-principal -u x -p {} --tenant y")
    add("service principal json", b62(34), '{"appId": "x", "displayName": "y", "password": "{}", "tenant": "z"}')
    add("eventgrid", m.b64(32), "aeg-sas-key: {}")
    add("cognitive", hex_(32), "Ocp-Apim-Subscription-Key: {}")
    add("gcp sa yaml", m.pem("PRIVATE KEY", 12, "\\n"), 'private_key: "{}\\n"')
    add("dkim", m.pem("RSA PRIVATE KEY", 6), "dkim.private:\n{}")
    add("ssh key crlf", m.pem("OPENSSH PRIVATE KEY", 6, "\r\n"), "{}")
    add("ssh key first lines", m.pem("OPENSSH PRIVATE KEY", 24).rsplit("\n", 22)[0], "$ head -3 id_rsa\n{}\n")
    add("ssh key cat -n", "\n".join(f"{i:6d}\t{line}" for i, line in enumerate(m.pem("OPENSSH PRIVATE KEY", 6).split("\n"),1)), "{}")
    add("ssh key indented json list", m.pem("RSA PRIVATE KEY", 5, '",\n  "'), '[\n  "{}"\n]')
    add("gpg passphrase", m.human(), "gpg --batch --passphrase {} -d x.gpg")
    add("keytool", m.human(), "keytool -genkey -storepass {} -keystore x")
    add("jarsigner", m.human(), "jarsigner -storepass {} -keypass x a.jar")
    add("7z", m.human(), "7z x a.7z -p{}")
    add("zip", m.human().replace("!","_"), "zip -P {} a.zip x")
    add("curl proxy", m.human().replace("@","_").replace("#","_"), "curl -x http://u:{}@proxy.acme.dev:3128 https://x")
    add("wget", m.human(), "wget --user=a --password={} https://x")
    add("httpie", m.human(), "http -a admin:{} GET https://x.dev/api")
    add("mongo shell", m.human(), "mongosh --host h -u root -p {} admin")
    add("mysql repl", m.human(), "SET PASSWORD FOR 'root'@'localhost' = PASSWORD('{}');")
    add("psql connect", m.human(), "psql \"host=db user=app password={} dbname=x\"")
    add("django createsuperuser", m.human(), "DJANGO_SUPERUSER_PASSWORD={} ./manage.py createsuperuser")
    add("user create py", m.human(), "User.objects.create_superuser('admin', 'a@x.dev', '{}')")
    add("chpasswd", m.human(), "echo 'root:{}' | chpasswd")
    add("expect", m.human(), 'expect "assword:"\nsend "{}\\r"')
    add("yaml quoted", m.human(), "  api_password: '{}'\n")
    add("yaml token list", b62(40), "tokens:\n  - name: ci\n    value: x\n    token: {}\n")
    add("xml element", b62(32), "<apiKey>{}</apiKey>")
    add("plist", b62(39), "<key>API_KEY</key>\n<string>{}</string>")
    add("android strings", "AIza"+of(URLSAFE,35), '<string name="google_maps_key">{}</string>')
    add("env array gha log", b62(36), "env:\n  DEPLOY_TOKEN: {}\n  CI: true")
    add("gitlab var json", b62(30), '{"key":"DEPLOY_TOKEN","value":"{}","masked":false}')
    add("heroku config", b62(48), "SECRET_KEY_BASE:          {}\nWEB_CONCURRENCY: 2")
    add("vercel env pull", b62(44), '# Created by Vercel CLI\nKV_REST_API_TOKEN="{}"\n')
    add("flyctl secrets", b62(32), "fly secrets set SESSION_SECRET={} -a x")
    add("upstash", b62(56), "UPSTASH_REDIS_REST_TOKEN={}")
    add("clerk", "sk_live_"+b62(42), "CLERK_SECRET_KEY={}")
    add("pusher", hex_(20), "PUSHER_APP_SECRET={}")
    add("plaid secret", hex_(30), "PLAID_SECRET={}")
    add("github device", "ghu_"+b62(36), '"access_token": "{}", "token_type": "bearer"')
    add("ghs remote", "ghs_"+b62(36), "http.https://github.com/.extraheader\nhttps://x-access-token:{}@github.com/a/b")
    add("git extraheader", base64.b64encode(("x-access-token:ghs_"+b62(36)).encode()).decode(), "http.https://github.com/.extraheader=AUTHORIZATION: basic {}")
    add("npm legacy", m.uuid(), "//npm.pkg.acme.dev/:_authToken={}")
    add("yarnrc", b62(36), 'npmAuthToken: "{}"')
    add("bunfig", b62(36), 'registry = { url = "https://x", token = "{}" }')
    add("pip index", b62(24), "--index-url https://ci:{}@pypi.acme.dev/simple")
    add("poetry config", "pypi-AgEIcHlwaS5vcmc"+of(URLSAFE,150), "poetry config pypi-token.pypi {}")
    add("uv env", m.human(), "UV_INDEX_ACME_PASSWORD={}")
    add("conda token", m.hex(40), "https://conda.anaconda.org/t/{}/acme")
    add("jenkins", "11"+hex_(32), "curl -u admin:{} https://jenkins/x")
    add("jenkins crumb env", "11"+hex_(32), "JENKINS_API_TOKEN={}")
    add("sonar cli", "sqp_"+hex_(40), "sonar-scanner -Dsonar.token={}")
    add("sonar login", hex_(40), "sonar-scanner -Dsonar.login={}")
    add("saml", m.b64(200), "SAMLResponse={}")
    add("magic link", b62(48), "https://app.acme.dev/reset-password?token={}")
    add("oauth code secret form", b62(40), "client_id=abc&client_secret={}&grant_type=authorization_code")
    add("graphql var", m.human(), '{"variables": {"email": "a@x.io", "password": "{}"}}')
    add("form multipart", m.human(), 'Content-Disposition: form-data; name="password"\r\n\r\n{}\r\n--x')
    add("basic b64 in code", base64.b64encode(b"svc:"+m.drawn().encode()).decode(), "headers = {'Authorization': 'Basic {}'}")
    add("kubectl token out", m.jwt("RS256"), "$ kubectl create token admin\n{}\n")
    add("argocd", b62(16), "argocd login cd.acme.dev --username admin --password {}")
    add("argocd initial", b62(16), "$ argocd admin initial-password\n{}\n\n This password must be only used for first time login")
    add("gitlab root", m.b64(32), "Password: {}\n# NOTE: If this value doesn't work")
    add("mysql temp", m.drawn().replace("#","_"), "A temporary password is generated for root@localhost: {}")
    add("grafana ini", m.human(), "[security]\nadmin_password = {}\n")
    add("prometheus", m.human(), "basic_auth:\n  username: a\n  password: {}\n")
    add("eth mnemonic", " ".join(rng.choice(["abandon", "ability", "able", "about", "above", "absent", "absorb", "abstract", "absurd", "abuse", "access", "accident"]) for _ in range(12)), 'MNEMONIC="{}"')
    add("telegram py", f"{rng.randrange(10**9,10**10)}:AA{of(URLSAFE,33)}", 'Bot(token="{}")')
    # Unseen when the rules had been mended after those
    add("aws id prose","AKIA"+of(UPPER,16),"I used {} and it failed")
    add("aws secret java",of(BASE64,40),'new BasicAWSCredentials(id, "{}")')
    add("aws cli env line",of(BASE64,40),"AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY={} aws s3 ls")
    add("aws xml",of(BASE64,40),"<SecretAccessKey>{}</SecretAccessKey>")
    add("gcp oauth client","GOCSPX-"+of(URLSAFE,28),'"client_secret":"{}"')
    add("azure storage cli",m.b64(64),"az storage blob list --account-key {}")
    add("azure sas table",of(BASE62,43)+"%3D","BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=sv=2022&ss=b&sig={}")
    add("github pat in yaml","github_pat_"+b62(22)+"_"+b62(59),"  password: {}")
    add("github classic log","ghp_"+b62(36),"fatal: unable to access 'https://{}@github.com/a/b/': 403")
    add("gitlab feed","glft-"+of(URLSAFE,20))
    add("gitlab scim","glsoat-"+of(URLSAFE,20))
    add("openai project js","sk-proj-"+of(URLSAFE,156),'new OpenAI({ apiKey: "{}" })')
    add("anthropic py","sk-ant-api03-"+of(URLSAFE,95),"Anthropic(api_key='{}')")
    add("hf header","hf_"+b62(34),'{"Authorization": "Bearer {}"}')
    add("cohere py",b62(40),"co = cohere.ClientV2('{}')")
    add("mistral py",b62(32),'Mistral(api_key="{}")')
    add("gemini url","AIza"+of(URLSAFE,35),"https://generativelanguage.googleapis.com/v1beta/models/x:generateContent?key={}")
    add("slack bot env",f"xoxb-{of(string.digits,13)}-{of(string.digits,13)}-{b62(24)}","SLACK_BOT_TOKEN={}")
    add("slack rotating","xoxe.xoxp-1-"+b62(146))
    add("discord webhook",f"{of(string.digits,18)}/{of(URLSAFE,68)}","curl -X POST https://discordapp.com/api/webhooks/{}")
    add("teams power automate",of(URLSAFE,43),"https://prod-1.westus.logic.azure.com:443/workflows/x/triggers/manual/paths/invoke?sp=%2Ftriggers&sv=1.0&sig={}")
    add("stripe live env","sk_live_51"+b62(97),"STRIPE_SECRET_KEY={}")
    add("stripe whsec","whsec_"+b62(32),"stripe listen\n> Ready! Your webhook signing secret is {}")
    add("twilio env",hex_(32),"TWILIO_AUTH_TOKEN: {}")
    add("sendgrid py","SG."+of(URLSAFE,22)+"."+of(URLSAFE,43),"SendGridAPIClient('{}')")
    add("npm ci log","npm_"+b62(36),"npm config set //registry.npmjs.org/:_authToken {}")
    add("pypi twine","pypi-AgEIcHlwaS5vcmc"+of(URLSAFE,160),"twine upload -u __token__ -p {} dist/*")
    add("docker pat","dckr_pat_"+of(URLSAFE,27),"echo {} | docker login -u a --password-stdin")
    add("jwt cookie",m.jwt("HS256"),"Set-Cookie: jwt={}; HttpOnly")
    add("jwt prose",m.jwt("ES256"),"Use this token: {}")
    add("session cookie express","s%3A"+b62(32)+"."+of(BASE64,43),"Cookie: connect.sid={}")
    add("phpsessid",of(LOWER,26),"Cookie: PHPSESSID={}; lang=de")
    add("csrftoken django",b62(64),"Cookie: csrftoken=x; sessionid={}")
    add("basic curl",m.human(),"curl -u 'elastic:{}' https://localhost:9200")
    add("pg url env",m.b62(20),"DATABASE_URL='postgres://u_{}:x@h/db'".replace("u_{}:x","app:{}"))
    add("mysql py",m.human(),"pymysql.connect(host='db', user='root', passwd='{}', db='x')")
    add("mssql ado",m.human(),'"Server=.;Database=x;User Id=sa;Password={};"')
    add("redis conf",m.b62(24),"requirepass {}")
    add("redis acl",m.b62(24),"redis.Redis(host='h', password='{}')")
    add("mongo srv",m.b62(18),"mongodb+srv://admin:{}@c.mongodb.net/?retryWrites=true")
    add("rabbit env",m.human(),"RABBITMQ_DEFAULT_PASS={}")
    add("minio env",m.human(),"MINIO_ROOT_PASSWORD={}")
    add("grafana env",m.human(),"GF_SECURITY_ADMIN_PASSWORD={}")
    add("keycloak env",m.human(),"KEYCLOAK_ADMIN_PASSWORD: {}")
    add("jenkins xml",m.b64(30),"<apiToken>{}</apiToken>")
    add("tomcat",m.human(),'<user username="admin" password="{}" roles="manager-gui"/>')
    add("htaccess md5","$apr1$"+b62(8)+"$"+b62(22),"admin:{}")
    add("unix shadow y","$y$j9T$"+b62(22)+"$"+b62(43),"bob:{}:19500:0:99999:7:::")
    add("rsa key",m.pem("RSA PRIVATE KEY",20),"{}\n")
    add("enc key","\n".join(m.pem("ENCRYPTED PRIVATE KEY",10).split("\n")),"{}")
    add("openssh truncated middle",m.pem("OPENSSH PRIVATE KEY",30)[:700],"cat .ssh/id\n{}")
    add("p8 json",m.pem("PRIVATE KEY",3,"\\n"),'"key":"{}"')
    add("tf tfvars map",m.human(),'db = { user = "a", password = "{}" }')
    add("vault kv",m.human(),"vault kv put secret/db password={}")
    add("vault read out",m.human(),"Key         Value\n---         -----\npassword    {}\n")
    add("vault svc","hvs.CAESI"+of(URLSAFE,90),"token                {}")
    add("k8s env yaml",m.human(),"- name: DB_PASSWORD\n  value: {}\n")
    add("k8s env quoted",m.human(),'        - name: API_TOKEN\n          value: "{}"\n')
    add("k8s data tls",base64.b64encode(m.pem("PRIVATE KEY",12).encode()).decode(),"  tls.key: {}\n")
    add("k8s dockerconfigjson",base64.b64encode(json.dumps({"auths":{"ghcr.io":{"username":"ci","password":"ghp_"+b62(36)}}}).encode()).decode(),"  .dockerconfigjson: {}\n")
    add("compose inline",m.human(),"POSTGRES_PASSWORD: \"{}\"")
    add("ansible var",m.human(),"mysql_root_password: \"{}\"")
    add("gha set-output",b62(40),"echo \"TOKEN={}\" >> $GITHUB_ENV")
    add("shell here",m.human(),"PASSWORD={} ./run.sh")
    add("ps aux",m.human(),"root 12 mysqld --user=mysql --password={} --port=3306")
    add("bash history",m.human(),"export PGPASSWORD='{}'; psql")
    add("flask cfg",hex_(32),"app.config['SECRET_KEY'] = '{}'")
    add("django email",m.human(),"EMAIL_HOST_PASSWORD = '{}'")
    add("ts const",b62(40),"export const API_KEY: string = '{}'")
    add("java props",b62(40),"stripe.api.key={}")
    add("go map",b62(40),'headers["X-API-Key"] = "{}"')
    add("fetch",b62(44),"fetch(url, {headers: {Authorization: 'Token {}'}})")
    add("axios",b62(44),"axios.defaults.headers.common['Authorization'] = 'Bearer {}';")
    add("python log dict",b62(36),"DEBUG:root:{'user': 'a', 'token': '{}'}")
    add("json nested",m.human(),'{"db":{"host":"h","credentials":{"username":"a","password":"{}"}}}')
    add("datadog yaml",hex_(32),"api_key: {}\nsite: datadoghq.eu")
    add("sentry dsn old",hex_(32),"https://"+hex_(32)+":{}@sentry.io/12")
    add("pagerduty, third",b62(20),"PAGERDUTY_TOKEN={}")
    add("cloudflare tok",of(URLSAFE,40),'cloudflare_api_token = "{}"')
    add("do spaces","DO00"+of(UPPER,16),"key {} secret x")
    add("heroku netrc",m.uuid(),"machine api.heroku.com\n  login a\n  password {}\n")
    add("snyk",m.uuid(),"SNYK_TOKEN={}")
    add("algolia",hex_(32),"algoliasearch('APPID', '{}')")
    add("mapbox","sk.eyJ"+of(URLSAFE,70)+"."+of(URLSAFE,22),"mapboxgl.accessToken = '{}'")
    add("telegram env",f"{rng.randrange(10**9,10**10)}:AA{of(URLSAFE,33)}","BOT_TOKEN={}")
    add("age, third","AGE-SECRET-KEY-1"+of("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",58),"SOPS_AGE_KEY={}")
    add("email","".join(rng.choices(string.ascii_lowercase,k=8))+"@proton.me","Reported-by: {}")
    add("home",  "z"+"".join(rng.choices(string.ascii_lowercase,k=7)), "File \"/home/{}/proj/a.py\", line 3")
    add("ipv4", f"81.{rng.randrange(30,200)}.{rng.randrange(1,200)}.{rng.randrange(1,250)}", "Connected to {} port 22")
    # What people write, and what an independent fourth set found missing
    mixed = m.word() + m.word().capitalize() + of(string.digits, 4)
    signed = m.word().capitalize() + "!" + of(string.digits, 4) + "." + of(string.ascii_lowercase, 3)
    add("prose pw", mixed, "pw: {}")
    add("prose use", signed, "Use password {} for the admin user")
    add("prose for", signed, "The password for the server is {}.")
    add("prose key", b62(32), "the secret key is '{}'")
    add("prose phrase", "-".join(rng.sample(WORDS, 4)), "passphrase: {}")
    add("prose pair", signed, "login: deploy / {}")
    add("prose colon pair", signed, "log in with admin:{}")
    add("prose pass", mixed, "user: admin pass: {}")
    add("prose comma", mixed, "user admin, password {}")
    add("prose brackets", mixed, "ssh root@host (pw {})")
    add("german", signed, "das Passwort ist {}")
    add("german 2", signed, "Kennwort: {}")
    add("french", signed, "le mot de passe est {}")
    add("spanish", signed, "contraseña: {}")
    add("portuguese", signed, "senha: {}")
    add("jenkins first", hex_(32), "Please use the following password to proceed to installation:\n\n{}\n\nThis may also be found at: /x")
    add("aws get", of(BASE64, 40), "$ aws configure get aws_secret_access_key\n{}\n")
    add("azure keys", m.b64(64), '[{"keyName": "key1", "permissions": "FULL", "value": "{}"}]')
    add("azure storage env", m.b64(64), "AZURE_STORAGE_KEY={}")
    add("pulumi set", b62(12) + "7aB4", "pulumi config set --secret dbPassword {}")
    add("k8s any name", m.b64(15), "apiVersion: v1\ndata:\n  DATABASE_URL: {}\nkind: Secret\nmetadata:\n  name: app\n")
    add("k8s any name, json", m.b64(15), '{"apiVersion": "v1", "data": {"url": "{}"}, "kind": "Secret"}')
    add("jdbc oracle", b62(12) + "7aB4", "jdbc:oracle:thin:scott/{}@//db:1521/x")
    add("old dsn", hex_(32), "dsn: 'https://{}:" + hex_(32) + "@sentry.io/123'")
    add("digest", hex_(32), 'Authorization: Digest username="u", realm="r", nonce="x", uri="/", response="{}"')
    add("openweather", hex_(32), "GET /data?appid={}&units=metric HTTP/1.1")
    add("oauth code", of(URLSAFE, 60), "https://acme.dev/cb?code={}&state=x")
    add("telegram hash", hex_(32), "TELEGRAM_API_HASH={}")
    add("hmac", hex_(64), "HMAC_KEY={}")
    add("yaml tag", b62(14) + "7b", "smtp_password: !!str {}")
    add("requirepass", b62(14) + "7b", "redis:\n  requirepass: {}")
    add("py bytes", hex_(32), 'app.secret_key = b"{}"')
    add("js fallback", b62(32), "process.env.API_KEY || '{}'")
    add("jwt sign", b62(14) + "7b", "jwt.sign(payload, '{}')")
    add("page fill", signed, "await page.fill('#password', '{}')")
    add("go bytes", b62(14) + "7b", 'var jwtSecret = []byte("{}")')
    add("java connection", b62(14) + "7b", 'DriverManager.getConnection(url, "app", "{}")')
    add("jwk prime", of(URLSAFE, 170), '{"p": "{}", "kty": "RSA", "q": "' + of(URLSAFE, 170) + '", "e": "AQAB"}')
    add("wandb call", hex_(40), "wandb.login(key='{}')")
    user = "z" + of(string.ascii_lowercase, 7)
    add("home drive", user, "/Volumes/Macintosh HD/Users/{}/x")
    add("home nfs", user, "/nfs/home/{}/run.sh")
    add("home lower", user, "c:\\users\\{}\\x.py")
    add("home wsl", user, "\\\\wsl$\\Ubuntu\\home\\{}\\x")
    add("home remote", user, "vscode-remote://ssh-remote/home/{}/x")
    add("mail in query", user + "%40gmail.com", "email={}&x=1")
    # A fifth set, by the same hand
    add("terraform output", signed, '{"db_password": {"sensitive": true, "type": "string", "value": "{}"}}')
    add("ssm", signed, '{"Name": "/prod/db", "Type": "SecureString", "Value": "{}", "Version": 3}')
    add("ecr login", "eyJ" + of(BASE64, 400), "docker login --username AWS -p {} 1.dkr.ecr.eu-west-1.amazonaws.com")
    add("decoded", signed, "kubectl get secret db -o jsonpath='{.data.password}' | base64 -d\n{}")
    add("nginx header", m.b64(24), 'proxy_set_header Authorization "Basic {}";')
    add("fastcgi", b62(14) + "7b", "fastcgi_param DB_PASS {};")
    add("user-secrets", b62(30) + "7b", 'dotnet user-secrets set "Api:Key" "{}"')
    add("auth plain", m.b64(24), "AUTH PLAIN {}")
    add("psk", b62(14) + "7b", ': PSK "{}"')
    add("bindpw", b62(14) + "7b", "bindpw {}")
    add("smbclient", b62(14) + "7b", "smbclient //h/s -U jd%{}")
    add("net user", signed, "net user jd {} /add")
    add("secure string", signed, "ConvertTo-SecureString '{}' -AsPlainText -Force")
    add("wifi", b62(14) + "7b", 'WiFi.begin(ssid, "{}");')
    add("erlang", of(string.ascii_uppercase, 20), "RABBITMQ_ERLANG_COOKIE={}")
    add("prose type", signed, "it asks for a password, type {}")
    add("prose this key", b62(40), "use this key: {}")
    # fmt: on
    return made


def look_alikes(rng: random.Random) -> dict[str, str]:
    """Kind → text that must stay as it is."""
    m = Maker(rng)
    sha, sha256, uuid = m.hex(40), m.hex(64), m.uuid()
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + rng.randbytes(300)).decode()
    return {
        "go.sum lines": f"github.com/a/b v1.2.3 h1:{m.b64(32)}\ngithub.com/a/b v1.2.3/go.mod h1:{m.b64(32)}",
        "yarn lock v1": f'  resolved "https://registry.yarnpkg.com/a/-/a-1.0.0.tgz#{sha}"\n  integrity sha512-{m.b64(64)}',
        "pnpm lock": f"    resolution: {{integrity: sha512-{m.b64(64)}}}",
        "cargo lock": f'name = "serde"\nchecksum = "{sha256}"',
        "poetry lock": f'    {{file = "a-1.0-py3-none-any.whl", hash = "sha256:{sha256}"}},',
        "composer lock": f'"reference": "{sha}", "shasum": "{m.hex(40)}"',
        "gemfile lock": f"  revision: {sha}\n  branch: main",
        "nix hash": f'hash = "sha256-{m.b64(32)}";\nnarHash: "sha256-{m.b64(32)}"',
        "sri tag": f'<script src="a.js" integrity="sha384-{m.b64(48)}" crossorigin="anonymous"></script>',
        "docker images": f"app   latest   {m.hex(12)}   2 days ago   1.2GB\nDigest: sha256:{sha256}",
        "docker ps": f"{m.hex(12)}   postgres:16   \"docker-entrypoint.s\"   Up 2 hours   5432/tcp   db",
        "git log": f"* {sha[:8]} (HEAD -> main, origin/main) Add token refresh\n* {m.hex(8)} Fix password reset",
        "git objects": f"tree {sha}\nparent {m.hex(40)}\n100644 blob {m.hex(40)}\tsrc/auth/token.py",
        "git index": f"index {sha[:7]}..{m.hex(7)} 100644\n--- a/secrets.go\n+++ b/secrets.go",
        "git format key": "gpg: Signature made Mon\ngpg:                using RSA key 4AEE18F83AFDEB23",
        "cache key action": f"Cache restored from key: Linux-pip-{sha256}",
        "pip freeze": "oauthlib==3.2.2\npasslib==1.7.4\npython-jose==3.3.0\ntoken-bucket==0.3.0",
        "npm packages": "├── jsonwebtoken@9.0.2\n├── passport-local@1.0.0\n└── @types/jsonwebtoken@9.0.5",
        "arn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf",
        "arn role": 'role_arn = "arn:aws:iam::210987654321:role/deploy-token-reader"',
        "aws ids": "vpc-0a1b2c3d4e5f67890 subnet-0f9e8d7c6b5a43210 ami-0abcdef1234567890 sg-0123abcd4567ef890",
        "k8s pods": "api-token-service-7d9f8b6c5d-x2x7k   1/1   Running   0   3d",
        "k8s secret ref": "        valueFrom:\n          secretKeyRef:\n            name: postgres-credentials\n            key: postgres-password",
        "k8s secret list": "NAME                  TYPE     DATA   AGE\ndb-credentials        Opaque   2      10d",
        "k8s describe": "Data\n====\npassword:  16 bytes\ntoken:     1024 bytes",
        "k8s service account": "serviceAccountName: token-reviewer\nautomountServiceAccountToken: false",
        "terraform ref": "password = random_password.db.result\ntoken    = var.github_token\nsecret = local.secret_name",
        "terraform data": 'password = data.vault_generic_secret.db.data["password"]',
        "terraform plan": "+ password = (sensitive value)\n+ token    = (known after apply)\n~ secret_id = (sensitive value)",
        "terraform variable": 'variable "db_password" {\n  type      = string\n  sensitive = true\n}',
        "helm template": 'password: {{ .Values.auth.password | quote }}\ntoken: {{ include "x.token" . | b64enc }}',
        "jinja": "db_password: \"{{ vault_db_password }}\"\napi_key: '{{ lookup(\"env\", \"API_KEY\") }}'",
        "compose variable": "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?err}\nAPI_KEY=${API_KEY:-}",
        "github actions": "password: ${{ secrets.DOCKERHUB_TOKEN }}\nwith:\n  token: ${{ github.token }}",
        "masked log": "Using token: ***\npassword=******** api_key=[REDACTED] secret=<hidden>",
        "masked partial": "Incorrect API key provided: sk-abcd****************************wxyz.",
        "env names": "Missing required environment variables: DB_PASSWORD, JWT_SECRET, STRIPE_SECRET_KEY",
        "env example": "DB_PASSWORD=\nJWT_SECRET=change_me_in_production\nAPI_KEY=your_api_key_here\nTOKEN=<token>",
        "env example x": "OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxx\nSLACK_BOT_TOKEN=xoxb-your-token\nGITHUB_TOKEN=ghp_xxxxxxxxxxxx",
        "read env python": 'SECRET_KEY = os.environ.get("SECRET_KEY", "dev")\nTOKEN = config("TOKEN", default="")',
        "read env js": "password: process.env.DB_PASSWORD!,\nconst { API_KEY: apiKey } = process.env;",
        "read env go": 'password := os.Getenv("DB_PASSWORD")\napiKey, ok := os.LookupEnv("API_KEY")',
        "read env rust": 'let api_key = std::env::var("API_KEY").expect("API_KEY must be set");',
        "read env java": 'String password = System.getenv("DB_PASSWORD");\n@Value("${app.jwt.secret}") private String secret;',
        "read env ruby": "secret_key_base: <%= ENV['SECRET_KEY_BASE'] %>\npassword: ENV.fetch('DB_PASSWORD')",
        "read env php": "'password' => env('DB_PASSWORD', ''),\n$token = $_SERVER['HTTP_X_TOKEN'];",
        "config call": "api_key = settings.OPENAI_API_KEY\nself.token = token or self._load_token()",
        "vault call": 'secret = client.secrets.kv.v2.read_secret_version(path="db")["data"]["data"]["password"]',
        "getpass": 'password = getpass.getpass("Password: ")\ntoken = input("Token: ")',
        "hash call": "password_hash = bcrypt.hashpw(password.encode(), bcrypt.gensalt())\ntoken = secrets.token_urlsafe(32)",
        "compare": 'if token != expected_token or not hmac.compare_digest(password, user.password_hash):',
        "ts interface": "interface Props { apiKey: string; token?: Token; password: Ref<string>; secret: Buffer | null }",
        "zod": "password: z.string().min(8).max(128), token: z.string().uuid().optional()",
        "prisma": "model Session {\n  sessionToken String @unique\n  refresh_token String? @db.Text\n}",
        "graphql": "mutation Login($email: String!, $password: String!) { login(email: $email, password: $password) { token } }",
        "openapi": "password:\n  type: string\n  format: password\n  minLength: 8\ntoken:\n  $ref: '#/components/schemas/Token'",
        "proto": "message LoginRequest { string user = 1; string password = 2; bytes session_key = 3; }",
        "dataclass": "password: str | None = None\napi_key: Optional[str] = field(default=None, repr=False)",
        "java fields": "private String password;\npublic void setToken(final String token) { this.token = token; }",
        "csharp": "public string Password { get; set; } = string.Empty;\nawait GetTokenAsync(cancellationToken: token);",
        "c code": "static int parse_token(token_t *token, const char *key) { return token->type == KEY_NONE; }",
        "parser tokens": "Token(type=IDENT, value='password'), Token(type=OP, value='='), Token(type=NAME, value='secret')",
        "tokenizer": 'tokens: ["Ġthe", "Ġsecret", "▁pass", "##word"], token_ids=[101, 7592, 2088, 102]',
        "model usage": '"usage": {"prompt_tokens": 1234, "completion_tokens": 567, "cache_read_input_tokens": 89012}',
        "keyboard": "if (event.key === 'Enter' || e.key == \"ArrowDown\") key={item.id} accessKey=\"s\"",
        "react keys": "<Item key={`row-${index}`} token={token} onPassword={handlePassword} />",
        "sort keys": 'sort_key="created_at", partition_key: user_id, primaryKey: "id", foreignKey: "account_id"',
        "i18n": '"auth.password.reset": "Passwort zurücksetzen", "token_expired": "Votre jeton a expiré", "secret": "Geheimnis"',
        "labels": '<label for="password">Password:</label> <input name="api_key" placeholder="Paste your API key">',
        "error messages": "Error: invalid token: expected ident\nAuthenticationError: password authentication failed for user \"app\"",
        "help text": "  --token TOKEN        API token (default: $API_TOKEN)\n  --password-stdin     read the password from stdin",
        "docs sentence": "Set the password: use at least twelve characters. The token is stored in the keychain.",
        "docs curl": "curl -H 'Authorization: Bearer $TOKEN' -u user:password -H 'X-Api-Key: YOUR_API_KEY' https://api.example.com",
        "docs jwt": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.<signature>",
        "docs connection": "postgresql://user:password@localhost:5432/mydb mysql://root:root@127.0.0.1/test redis://localhost:6379",
        "docs dsn": "mongodb://<username>:<password>@<host>/<db> amqp://guest:guest@localhost:5672/",
        "test password": 'client.post("/login", json={"username": "test", "password": "password123"})',
        "test fixture": 'token = "test-token"; api_key="fake-api-key"; secret = "mysecret"; password="wrong-password"',
        "test ids": "tests/test_auth.py::test_password_reset[token-expired-401] PASSED",
        "test names": "✓ returns 401 when token is missing (12 ms)\n✕ rejects password shorter than 8 (3 ms)",
        "request ids": f'request_id={uuid} trace_id={m.hex(32)} span_id={m.hex(16)} x-amz-request-id: {m.of(UPPER, 16)}',
        "correlation header": f"x-request-id: {uuid}\ncf-ray: {m.hex(16)}-FRA\netag: \"{m.hex(32)}\"",
        "event ids": f'{{"event_id": "evt_{m.b62(24)}", "customer": "cus_{m.b62(14)}", "object": "payment_intent"}}',
        "stripe publishable": f"pk_test_{m.b62(24)} price_{m.b62(24)} prod_{m.b62(14)}",
        "chat ids": f'"id": "chatcmpl-{m.b62(29)}", "system_fingerprint": "fp_{m.hex(10)}", "id": "call_{m.b62(24)}"',
        "response ids": f'"id": "resp_{m.hex(48)}", "item_id": "msg_{m.hex(48)}", "fc_{m.hex(40)}"',
        "session ids": f"Session: {uuid}\n\"sessionId\": \"{uuid}\", \"parentUuid\": \"{m.uuid()}\"",
        "object ids": f'{{"_id": "{m.hex(24)}", "user": ObjectId("{m.hex(24)}"), "key": "{uuid}"}}',
        "data picture": f"background: url(data:image/png;base64,{picture})",
        "base64 png": f'{{"type": "image", "data": "{picture}"}}',
        "svg path": 'd="M12 2C6.48 2 2 6.48 2 12s4.48 10 10 10 10-4.48 10-10S17.52 2 12 2zm0 18c-4.41 0-8"',
        "source map": '//# sourceMappingURL=data:application/json;base64,eyJ2ZXJzaW9uIjozLCJzb3VyY2VzIjpbXX0=',
        "minified": "!function(e,t){t.token=e.key,e.secret||(e.password=t.pass)}(a,b);var c=o.apiKey||i.token,s=r.auth(c)",
        "webpack chunk": f"main.{m.hex(20)}.js  vendors~app.{m.hex(8)}.chunk.css  token.{m.hex(8)}.js",
        "css": ".password-input:focus{border-color:#4a90e2}.token--keyword{color:#c678dd}#api-key-form{margin:0 auto}",
        "class chain": "com.acme.auth.oauth2.TokenAuthenticationProvider.authenticate(TokenAuthenticationProvider.java:88)",
        "python dotted": "google.oauth2.service_account.Credentials.from_service_account_info(info)",
        "rails path": "app/controllers/passwords_controller.rb app/models/api_key.rb spec/requests/tokens_spec.rb",
        "import path": "import { token } from '@/lib/auth/token'; from app.core.security import create_access_token",
        "secret regexes": r"(?i)(api[_-]?key|secret|password)\s*[:=]\s*['\"]?[A-Za-z0-9/+=]{16,}" + r"  AKIA[0-9A-Z]{16}  ghp_[A-Za-z0-9]{36}",
        "secret regex py": "re.compile(r'sk-[a-zA-Z0-9]{20,}')\nSLACK = r'xox[baprs]-[0-9a-zA-Z-]{10,}'",
        "password rule": "const PASSWORD_RE = /^(?=.*[a-z])(?=.*\\d)(?=.*[@$!%*?&]).{8,}$/;",
        "public key": f"-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A{m.of(BASE64, 32)}\n-----END PUBLIC KEY-----",
        "certificate": f"-----BEGIN CERTIFICATE-----\nMIID{m.of(BASE64, 60)}\n{m.of(BASE64, 64)}\n-----END CERTIFICATE-----",
        "ssh known host": f"github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{m.of(BASE64, 43)}",
        "authorized keys": f"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ{m.of(BASE64, 200)} me@host",
        "ssh fingerprint": f"SHA256:{m.of(BASE64, 43)} no comment (ED25519)\nMD5:{':'.join(m.hex(2) for _ in range(16))}",
        "key check": "if header.startswith('-----BEGIN RSA PRIVATE KEY-----'): raise ValueError('private key')",
        "openssl cmd": "openssl genrsa -out key.pem 2048 && openssl req -new -key key.pem -out csr.pem",
        "ssh keygen": "ssh-keygen -t ed25519 -C deploy -f ~/.ssh/id_ed25519 -N ''",
        "shell read": 'read -s -p "Password: " PASSWORD; export TOKEN=$(gcloud auth print-access-token)',
        "shell cat": 'export DB_PASSWORD="$(cat /run/secrets/db_password)"\ncurl -u "$USER:$(pass show x)" $URL',
        "aws cli": "aws secretsmanager get-secret-value --secret-id prod/db/password --query SecretString",
        "gh cli": "gh secret list\ngh auth token\ngh secret set API_TOKEN < token.txt",
        "docker secrets": "docker run --env-file .env -e DB_PASSWORD -v /run/secrets:/run/secrets:ro app",
        "sql": "SELECT id, password_hash, token FROM users WHERE token = $1 AND api_key IS NOT NULL;",
        "sql migration": "ALTER TABLE users ADD COLUMN api_key varchar(64) DEFAULT NULL; CREATE INDEX ix_token ON t (token);",
        "html csrf": '<meta name="csrf-param" content="authenticity_token">\n<input type="password" id="pwd">',
        "oauth scopes": "scope=openid+profile+email&response_type=code&grant_type=authorization_code&client_id=web-app",
        "oauth urls": '"token_endpoint": "https://accounts.acme.dev/oauth2/v1/token", "token_type": "Bearer"',
        "yaml keys": "key: value\nsecretName: tls-cert\ntokenSecretRef: {name: cloudflare, key: api-token}",
        "json schema": '"password": {"type": "string", "writeOnly": true}, "required": ["token", "apiKey"]',
        "pass counters": "PASS: 12  FAIL: 0\npassed=12 bypass=False compass: north passthrough: true",
        "constants": "const KEY_LENGTH = 32; TOKEN_TTL_SECONDS=3600; MAX_PASSWORD_LENGTH: 128; AUTH_TOKEN_HEADER = 'X-Auth-Token'",
        "enum": "enum TokenType { ACCESS = 'access', REFRESH = 'refresh' } AUTH_METHOD_PASSWORD = 'password'",
        "storage keys": "localStorage.getItem('auth_token'); const TOKEN_KEY = 'app.auth.token'; SESSION_KEY: 'user_session'",
        "redis keys": 'cache_key = f"user:{user_id}:token"; key="session:12345:refresh"',
        "feature flags": 'feature_key: "new-checkout-flow", config_key="enable_password_login_v2"',
        "file names": "secrets.yaml credentials.json id_rsa.pub .npmrc token.json service-account.json password.txt",
        "versions": "key@1.2.3 token==2.0.1 v1.25.3+k3s1 openssl 3.0.13 python3.11-dev 2:8.2.3995-1ubuntu2.17",
        "numbers": "0x7ffee4b0a8c0 0xdeadbeef 1700000000000 6.02214076e23 3.141592653589793238462643",
        "addresses": "127.0.0.1:5432 10.244.0.17 172.17.0.2 192.168.49.2 169.254.169.254 ::1 fe80::1",
        "mac and time": "02:42:ac:11:00:02 2025-01-02T03:04:05.678901Z 00:11:22:33:44:55",
        "timings": "real 0m3.210s user 0m1.002s; 98.7% 1.2GiB/3.8GiB token/s: 45.2 tokens/sec",
        "jupyter": f'"cell_type": "code", "id": "{m.hex(8)}", "execution_count": 12, "outputs": []',
        "xcode ids": f"{m.of('0123456789ABCDEF', 24)} /* Token.swift in Sources */ = {{isa = PBXBuildFile; }};",
        "guid sln": f'Project("{{{uuid.upper()}}}") = "Auth.Token", "Auth.Token.csproj"',
        "solidity address": f"0x{m.hex(40)} owner() onlyOwner token.transfer(msg.sender, amount)",
        "tx hash": f"transactionHash: 0x{m.hex(64)} blockNumber: 123",
        "css modules": f"styles_password__{m.b62(5)} Button_token__{m.b62(5)} _input_{m.of(LOWER, 5)}_12",
        "protein": ">sp|P69905\nMVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHG",
        "hex dump": "00000000  7f 45 4c 46 02 01 01 00  00 00 00 00 00 00 00 00  |.ELF............|",
        "assembly": "mov rax, qword ptr [rip + 0x2004e1]\ncall 0x401136 <check_password+0x12>",
        "emails of bots": "Co-Authored-By: Claude <noreply@anthropic.com>\nSigned-off-by: dependabot[bot] <support@github.com>",
        "scp address": "git@github.com:acme/app.git ssh://git@gitlab.com/acme/app deploy@example.com",
        "decorators": "@app.get('/token')\n@router.post(\"/password\")\n@auth.login_required",
        "handles": "@acme/token-utils@^2.1.0 @scope/secret.js user@host:~/app$ pytest@latest",
        "user folders": "/home/user/app /Users/runner/work /home/node /home/vscode C:\\Users\\Public /home/ubuntu/.ssh",
        "pw fn call": "const ok = await verifyPassword(password, user.hash)\nif (!comparePassword(input, hash)) throw",
        "set password method": 'user.set_password(raw_password); form.setPassword(value); expect(setPassword).toHaveBeenCalledWith("")',
        "auth tuple var": "requests.get(url, auth=(user, password)); HTTPBasicAuth(username, self.password)",
        "login call": 'page.getByLabel("Password").fill(password); await login(page, user)',
        "basic auth doc": 'auth=("user", "pass")  # basic auth',
        "jdbc": "jdbc:postgresql://localhost:5432/app?user=${u}&password=${p}",
        "go fmt": 'fmt.Sprintf("postgres://%s:%s@%s:%d/%s", user, password, host, port, name)',
        "py fstring": 'f"mysql://{user}:{password}@{host}/{db}"',
        "js template": "`mongodb://${user}:${encodeURIComponent(pass)}@${host}`",
        "assert raises": 'with pytest.raises(ValueError, match="invalid token"): parse_token("abc")',
        "enum py": "class GrantType(str, Enum):\n    PASSWORD = 'password'\n    REFRESH_TOKEN = 'refresh_token'",
        "react state": "const [password, setPassword] = useState(''); const [token, setToken] = useState<string | null>(null);",
        "vue": '<input v-model="form.password" :type="showPassword ? \'text\' : \'password\'" />',
        "angular": "this.form = fb.group({ password: ['', [Validators.required, Validators.minLength(8)]] });",
        "rails params": "params.require(:user).permit(:email, :password, :password_confirmation)",
        "laravel validate": "'password' => ['required', 'confirmed', Password::defaults()], 'token' => 'required|string'",
        "django": "password = models.CharField(max_length=128)\ntoken = models.UUIDField(default=uuid.uuid4)",
        "sqlalchemy": "password_hash: Mapped[str] = mapped_column(String(255)); api_key = Column(String, nullable=True)",
        "spring": "@PreAuthorize(\"hasAuthority('TOKEN_READ')\")\n.passwordEncoder(new BCryptPasswordEncoder(12))",
        "terraform sm": 'secret_id = aws_secretsmanager_secret.db.id\nkey_vault_secret_id = azurerm_key_vault_secret.x.versionless_id',
        "cfn": "MasterUserPassword: !Sub '{{resolve:secretsmanager:${DbSecret}:SecretString:password}}'",
        "cfn getatt": "Password: !Ref DbPassword\nToken: !GetAtt Secret.Arn\nNoEcho: true",
        "ansible vault": "db_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256",
        "sops": "password: ENC[AES256_GCM,data:abc=,iv:def=,tag:ghi=,type:str]",
        "sealed": "encryptedData:\n  password: AgBy3i4OJSWK+PiTySYZZA9rO43cGDEq",
        "op ref": "API_KEY=op://vault/item/field\nTOKEN=$(op read op://x/y/z)",
        "aws ssm": "DB_PASSWORD=/prod/db/password  # ssm parameter\nvalueFrom: arn:aws:ssm:eu-west-1:1:parameter/db/password",
        "gha with": "uses: actions/checkout@v4\nwith:\n  ssh-key: ${{ secrets.DEPLOY_KEY }}\n  persist-credentials: false",
        "circle": "context: org-secrets\nenvironment:\n  TOKEN: << parameters.token >>",
        "vim swap": "~/.ssh/id_rsa: No such file or directory\nPermission denied (publickey,password).",
        "sudo": "[sudo] password for bob: \nSorry, try again.\nsudo: a password is required",
        "ssh prompt": "Enter passphrase for key '/home/user/.ssh/id_ed25519': \nEnter same passphrase again: ",
        "git prompt": "Username for 'https://github.com': \nPassword for 'https://git@github.com': ",
        "git auth err": "remote: Support for password authentication was removed on August 13, 2021.",
        "npm err": "npm ERR! code E401\nnpm ERR! Unable to authenticate, need: Bearer realm=\"x\",service=\"y\"",
        "http 401": 'WWW-Authenticate: Bearer realm="api", error="invalid_token", error_description="The access token expired"',
        "www basic": 'WWW-Authenticate: Basic realm="Restricted Area"',
        "csp": "Content-Security-Policy: script-src 'nonce-" + m.b64(16) + "' 'sha256-" + m.b64(32) + "'",
        "k8s hash": f"pod-template-hash=7d9f8b6c5d, checksum/secret: {sha256}",
        "argo": f"targetRevision: {sha}\nimage: ghcr.io/acme/token-svc:sha-{sha[:7]}",
        "bazel": f'sha256 = "{sha256}", strip_prefix = "token-1.2.3"',
        "flake": f'"narHash": "sha256-{m.b64(32)}", "rev": "{sha}"',
        "mix lock": f'"jose": {{:hex, :jose, "1.11.6", "{sha256}", [:mix, :rebar3]}}',
        "pubspec": f"    sha256: \"{sha256}\"\n    url: https://pub.dev",
        "deno lock": f'"https://deno.land/std@0.1/x.ts": "{sha256}"',
        "podfile": f"SPEC CHECKSUMS:\n  Alamofire: {sha}",
        "conda": f"https://conda.anaconda.org/conda-forge/linux-64/openssl-3.2.0-hd590300_1.conda#{m.hex(32)}",
        "git lfs": f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 12345",
        "cosign": f"sha256-{sha256}.sig",
        "otel": f"traceparent: 00-{m.hex(32)}-{m.hex(16)}-01",
        "datadog trace": f"dd.trace_id={rng.randrange(10**18)} dd.span_id={rng.randrange(10**18)}",
        "mongo id": f"ObjectId('{m.hex(24)}')",
        "ulid": "01HV" + m.of("0123456789ABCDEFGHJKMNPQRSTVWXYZ", 22) + " run_" + m.b62(24),
        "nanoid key": f'key="{m.b62(21)}"',
        "react query": f"queryKey: ['user', userId], mutationKey: ['token'], cacheKey: 'user:{uuid}'",
        "s3 key": 'Key: "uploads/2024/03/report-final-v2.pdf", Bucket: "acme-prod-assets"',
        "boto get": "s3.get_object(Bucket=bucket, Key=key)['Body'].read()",
        "kafka key": 'producer.send("topic", key=b"user-123", value=payload)',
        "redis ttl": 'SETEX session:9f8e 3600 "..."\nGET token:blacklist:count',
        "pyproject": 'keywords = ["token", "secret", "password"]\npassword-validator = "^5.3.0"',
        "argparse": "parser.add_argument('--token', required=True, help='API token (env: TOKEN)')",
        "click": '@click.option("--password", prompt=True, hide_input=True, envvar="DB_PASSWORD")',
        "cobra": 'cmd.Flags().StringVar(&token, "token", "", "API token to use")',
        "clap": '#[arg(long, env = "API_TOKEN", hide_env_values = true)]\ntoken: Option<String>,',
        "viper": 'viper.SetDefault("auth.token_ttl", "24h"); viper.GetString("db.password")',
        "token class": "class TokenBucketRateLimiter { private tokens: number; constructor(private readonly secret: SecretManager) {} }",
        "lexer": "TOKEN_LPAREN = 'LPAREN'; token.type == TOKEN_STRING; tok := lex.nextToken()",
        "hf tokens": 'tokenizer.pad_token = tokenizer.eos_token; "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]',
        "openai usage": "max_completion_tokens: 4096, tokens_per_minute=90000, token_count: 128000",
        "llm cfg": 'model: claude-3-5-sonnet-20241022, openai/gpt-4o-mini-2024-07-18, "deepseek-r1-distill-qwen-32b"',
        "regex 1": r'const TOKEN_RE = /^[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{6}$/; password: /^.{8,64}$/',
        "i18n de": '"password": "Passwort", "password_hint": "Mindestens 8 Zeichen", "api_key": "API-Schlüssel"',
        "i18n fr": '"login.password": "Mot de passe oublié ?", "token": "Jeton d\'accès"',
        "fixtures": 'password: "password", token: "token", apiKey: "test", secret: "secret", key: "foo"',
        "jest mock": "jest.mock('../auth'); getToken.mockResolvedValue('mock-token'); process.env.API_KEY = 'test-key';",
        "swagger": "securitySchemes:\n  bearerAuth:\n    type: http\n    scheme: bearer\n    bearerFormat: JWT",
        "nginx": "auth_basic_user_file /etc/nginx/.htpasswd;\nproxy_set_header Authorization $http_authorization;",
        "pg hba": "host    all    all    10.0.0.0/8    scram-sha-256\nlocal   all    postgres    peer",
        "haproxy": "userlist admins\n  user bob password-hash-placeholder",
        "sqlerr": "ERROR 1045 (28000): Access denied for user 'root'@'localhost' (using password: YES)",
        "pg err": 'FATAL: password authentication failed for user "app"\nHINT: check pg_hba.conf',
        "diff": "-    password = os.getenv('PASS')\n+    password = get_secret('db/pass')",
        "todo": "TODO: rotate the secret; key: see wiki; token is in 1Password; password is on the sticky note",
        "changelog": "- Security: hash api keys at rest (#1234)\n- feat(auth): add refresh-token rotation (abc1234)",
        "stack js": "at TokenService.verify (/app/dist/token.service.js:42:17)\nat process.processTicksAndRejections (node:internal/process/task_queues:95:5)",
        "go test": "--- FAIL: TestPasswordReset/expired_token (0.00s)\nok  \tgithub.com/acme/auth/token\t0.012s",
        "colon paths": "src/auth.py:5432:10: error: undefined name token\na.c:5433:7:note:declared here:x9f3",
        "ci cache": f"key: v1-deps-{{{{ checksum \"yarn.lock\" }}}}\nkey: node-modules-{sha256[:40]}",
        "wasm b64": "const wasm = Uint8Array.from(atob('AGFzbQEAAAABBgFgAX8BfwMCAQAHCAEEZmFjdAAA" + m.of(BASE64, 120) + "'), c => c.charCodeAt(0))",
        "font": "src: url(data:font/woff2;base64,d09GMgABAAAAA" + m.of(BASE64, 200) + ") format('woff2')",
        "pem pub var": "publicKey: 'MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A" + m.of(BASE64, 100) + "'",
        "ssh pub json": '"key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI' + m.of(BASE64, 43) + '"',
        "vapid public": "NEXT_PUBLIC_VAPID_KEY=B" + m.of(URLSAFE, 86),
        "ga ids": "G-" + m.of(UPPER, 10) + " UA-12345678-1 GTM-" + m.of(UPPER, 7) + " AW-123456789",
        "stripe pub": "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY=pk_live_" + m.b62(24),
        "hex color list": "colors: ['#4a90e2', '#c678dd', '#98c379'], key: '#fafafa'",
        "java opts": "-Djavax.net.ssl.trustStore=/etc/ssl/cacerts -Xmx512m -Dsonar.projectKey=acme_app_service",
        "pass word": "compass: N; bypass=true; passport: local; surpass; passage=12; pass_rate: 0.98",
        "pwd": "PWD=/home/user/app OLDPWD=/tmp pwd: /workspace/project-a1",
        "author": "author: marta, authority=42, authored-by: x; auth: none; auth=basic",
        "cookie consent": "Cookie: theme=dark; locale=en-US; consent=accepted",
        "graph edges": "edge key=abc123 -> def456 (weight=0.75); node_key: n17",
        "session word": "session: readonly; session_id=None; session=requests.Session(); session.commit()",
        "snapshot": f'exports[`token renders 1`] = `<div class="css-{m.of(LOWER,7)}" data-key="row-1" />`',
        "ps": "root  1234  0.0  0.1 ssh-agent -s\nroot  1235 gpg-agent --supervised",
        "code a":"password_field = driver.find_element(By.ID, 'password'); password_field.send_keys(password)",
        "code b":"tokens = tokenizer.encode(text); token_type_ids = [0] * len(tokens)",
        "code c":"const token = req.headers.authorization?.split(' ')[1];",
        "code d":"if (!apiKey) throw new Error('API_KEY is required');",
        "code e":"api_key=None, secret_key=None, session_token=None, profile_name=None",
        "code f":"headers={'Authorization': f'Bearer {token}', 'X-Api-Key': api_key}",
        "code g":"'Authorization': 'Bearer ' + token, Authorization: `Bearer ${accessToken}`",
        "code h":"password: Joi.string().pattern(new RegExp('^[a-zA-Z0-9]{3,30}$')).required(),",
        "code i":"secret: process.env.SESSION_SECRET || 'keyboard cat',",
        "code j":"JWT_SECRET=${JWT_SECRET}\nDB_PASSWORD=$(openssl rand -base64 32)",
        "code k":"password: !secret wifi_password\napi_key: !env_var API_KEY",
        "code l":"psql -U postgres -h localhost -W\nmysql -u root -p\nssh -i key.pem ubuntu@10.0.0.5",
        "code m":"openssl rand -hex 32 > secret.key; chmod 600 secret.key; cat token.txt | base64 -d",
        "code n":"kubectl get secret db -o jsonpath='{.data.password}' | base64 -d",
        "code o":"aws sts get-session-token --serial-number arn:aws:iam::123456789012:mfa/bob --token-code 123456",
        "code p":f"sha256sum: {m.hex(64)}  app-1.2.3.tar.gz\nmd5: {m.hex(32)}",
        "code q":f"Successfully built {m.hex(12)}\nSuccessfully tagged token-svc:latest",
        "code r":f"[main {m.hex(7)}] Rotate API key handling\n 3 files changed, 12 insertions(+)",
        "code s":f"x-vercel-id: fra1::{m.b62(5)}-1700000000000-{m.hex(12)}\nserver-timing: db;dur=53",
        "code t":f"urn:uuid:{m.uuid()} workflow_run_id={rng.randrange(10**10)} job={m.uuid()}",
        "code u":f'"_integrity": "sha512-{m.b64(64)}", "_shasum": "{m.hex(40)}"',
        "code v":f"checksum = \"{m.hex(64)}\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"",
        "code w":f'"resolved": "https://registry.npmjs.org/keyv/-/keyv-4.5.4.tgz", "integrity": "sha512-{m.b64(64)}"',
        "code x":"public static final String TOKEN_PREFIX = \"Bearer \"; HEADER_STRING = \"Authorization\";",
        "code y":"@Column(name = \"password_hash\", nullable = false, length = 60) private String passwordHash;",
        "code z":"func (s *Server) validateToken(ctx context.Context, token string) (*Claims, error) {",
        "code aa":"impl From<Token> for Secret { fn from(token: Token) -> Self { Secret(token.into_inner()) } }",
        "code ab":"let password = rpassword::prompt_password(\"Password: \")?;",
        "code ac":"val token = sharedPreferences.getString(\"auth_token\", null) ?: return",
        "code ad":"guard let apiKey = Bundle.main.infoDictionary?[\"API_KEY\"] as? String else { fatalError() }",
        "code ae":"$password = password_hash($_POST['password'], PASSWORD_DEFAULT);",
        "code af":"has_secure_password validations: false; has_secure_token :auth_token, length: 36",
        "code ag":"SELECT current_user, session_user; GRANT SELECT ON tokens TO readonly;",
        "code ah":"<PasswordInput value={password} onChange={(e) => setPassword(e.target.value)} autoComplete=\"new-password\" />",
        "code ai":".token.punctuation{color:#999}.token.string{color:#690}.secret-panel{display:none}",
        "code aj":"key={`${item.id}-${index}`} ref={tokenRef} keyExtractor={(item) => item.key}",
        "code ak":"map[string]interface{}{\"token\": tok, \"password\": pw}; json:\"api_key,omitempty\"",
        "code al":"assert_eq!(token, Token::Ident(\"password\".into())); assertEquals(\"secret\", cfg.getSecret());",
        "code am":"export OPENAI_API_KEY=<your key>  # get one at https://platform.openai.com/api-keys",
        "code an":"sk-ant-api03-... or sk-proj-*** ; ghp_*** ; AKIA... ; xoxb-***",
        "code ao":"curl https://api.openai.com/v1/models -H \"Authorization: Bearer $OPENAI_API_KEY\"",
        "code ap":"docker login -u \"$CI_REGISTRY_USER\" -p \"$CI_REGISTRY_PASSWORD\" $CI_REGISTRY",
        "code aq":"FAILED tests/test_tokens.py::TestTokens::test_token_expiry_seconds_3600 - AssertionError",
        "code ar":"Password must contain: 8+ characters, one number, one symbol. Token: required. Secret: optional.",
        "code as":"warning: unused variable: `password` [-Wunused] note: `#[warn(unused_variables)]` on by default",
        "code at":"error TS2339: Property 'apiKey' does not exist on type 'Config'. error TS2345: 'secretToken'",
        "code au":"secretsmanager:GetSecretValue kms:Decrypt ssm:GetParameter iam:PassRole sts:AssumeRoleWithWebIdentity",
        "code av":"spec:\n  secretName: wildcard-tls\n  issuerRef:\n    name: letsencrypt-prod\n  privateKeySecretRef:\n    name: le-key",
        "code aw":"<string name=\"password_hint\">Enter password</string><string name=\"token_label\">Token</string>",
        "list of names": '"required": ["password", "username2"]',
        "yaml alias": "password: *default_password",
        "numbers of names": "var e={password:1,token:2,secret:3}",
        "gpg fingerprint": f"GPG_KEY={m.of('0123456789ABCDEF', 40)}",
        "logged token": '{"token": "\u0120password", "logprob": -0.12}',
        "cmd variable": "DB_PASSWORD=%DB_PASSWORD%",
        "minified object": "var t=n(42),r={password:t.password,key:t.key};",
        "url of variables": "https://$USER:$TOKEN@acme.dev",
        "websocket key": f"Sec-WebSocket-Key: {m.b64(16)}",
        "prose on passwords": "Use password hashing (PBKDF2WithHmacSHA256), password for admin is unset, log in with user:role",
        "config map": "apiVersion: v1\nkind: ConfigMap\ndata:\n  level: ZGVidWc=\n---\nkind: Secret\nmetadata:\n  name: x\n",
        "code ax":f"Traceback: KeyError: 'api_key'\n  File \"/usr/lib/python3/auth.py\", line 88, in get_token\nid={m.hex(24)}",
    }  # fmt: skip
