// The requests. Addresses are relative to the page: it works behind a proxy and under a route prefix.

/** A refusal, or no answer at all. `code` is the service's own, or one of `offline`, `unreadable`. */
export class ApiError extends Error {
  constructor(code, { status = 0, message = "", param = null, retryAfter = null } = {}) {
    super(message || code);
    Object.assign(this, { code, status, param, retryAfter });
  }
}

const KEY = "text2mask-key";

/** The key lives as long as the tab: a reload must not ask again, and nothing is left on the machine's disk. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

async function call(path, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const response = await reached(fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" }));
  if (response.ok) return reached(response.json()); // the line may break in the middle of an answer
  const told = await response.json().catch(() => ({})); // a proxy's own answer is no JSON of ours
  throw new ApiError(told.error?.code ?? "unreadable", {
    status: response.status,
    message: told.error?.message ?? "",
    param: told.error?.param ?? null,
    retryAfter: response.headers.get("retry-after"),
  });
}

/** What a fetch, or the reading of its answer, comes to; its faults as ApiError. */
async function reached(work) {
  try {
    return await work;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error instanceof TypeError ? "offline" : "unreadable");
  }
}

/** A file of the page's own. */
export async function ownFile(url, signal) {
  const response = await reached(fetch(url, { signal }));
  if (!response.ok) throw new ApiError("unreadable", { status: response.status });
  return reached(response.blob());
}

export const models = async () => (await call("v1/models")).models;

/** One picture: it goes out as bytes once, and by its id from then on, as long as the service keeps it. */
export class Source {
  /** @param {Blob} file the encoded picture, as the person gave it */
  constructor(file) {
    this.file = file;
    this.id = null;
  }

  /** POST `fields` for this picture. Throws ApiError, or an AbortError once `signal` says so. */
  async ask(path, fields, signal) {
    if (this.id !== null) {
      try {
        return this.#keep(await this.#asJson(path, fields, { type: "id", value: this.id }, signal));
      } catch (error) {
        if (error.code !== "image_not_cached") throw error;
        this.id = null; // pushed out, or its replica is gone: send the bytes once more
      }
    }
    return this.#keep(await this.#byBytes(path, fields, signal));
  }

  async #byBytes(path, fields, signal) {
    // A form's text that looks like a JSON list would be read as one. By id it is a text, and so it has to be here.
    if (/^\s*\[/.test(fields.prompt ?? "")) {
      return this.#asJson(path, fields, { type: "base64", value: await base64(this.file) }, signal);
    }
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      body.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
    }
    body.append("image", this.file, "picture");
    return call(path, { method: "POST", body, signal });
  }

  #asJson(path, fields, image, signal) {
    const body = JSON.stringify({ ...fields, image });
    return call(path, { method: "POST", body, signal, headers: { "content-type": "application/json" } });
  }

  #keep(answer) {
    this.id = answer.image.id;
    return answer;
  }
}

const base64 = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => failed(new ApiError("unreadable"));
  reader.readAsDataURL(file);
});
