// Reads files of Kubernetes manifests and lists what is wrong with each:
//
//   schema      required fields, types and enums, by the validators of kubernetes-models
//   unknown     misspelled or unknown fields, which those validators let pass: each manifest becomes a typed TypeScript
//               constant, and the compiler refuses excess properties
//   references  a ConfigMap, ServiceAccount, claim or volume that is named and not there
//   restricted  what the Pod Security Standard "restricted" asks of every container
//
// usage: node validate_manifests.cjs FILE...     exit status 1 if anything is listed

const fs = require('fs');
const path = require('path');
const ts = require('typescript');
const yaml = require('yaml');

let problems = [];
const nameOf = (object) => `${object.kind}/${object.metadata?.name}`;

function parse(text) {
  const documents = yaml.parseAllDocuments(text, { uniqueKeys: true });
  for (const { errors } of documents) problems.push(...errors.map((error) => `yaml: ${error.message}`));
  return documents.map((document) => document.toJS()).filter(Boolean);
}

const moduleOf = (object) =>
  ['kubernetes-models', ...object.apiVersion.split('/'), object.kind].join('/');

function checkSchema(object) {
  try {
    const { apiVersion, kind, ...rest } = object;
    new (require(moduleOf(object))[kind])(rest).validate();
    return true;
  } catch (error) {
    problems.push(`${nameOf(object)}: schema: ${error.message}`);
    return error.code !== 'MODULE_NOT_FOUND';
  }
}

const parsed = new Map();  // the declarations of Kubernetes, for every file

function checkUnknownFields(objects) {
  const file = path.join(__dirname, 'manifests.ts');
  const starts = [];
  let source = '';
  for (const [i, object] of objects.entries()) {
    starts.push(source.length);
    source += `import {I${object.kind} as T${i}} from '${moduleOf(object)}';\n`;
    source += `export const manifest${i}: T${i} = ${JSON.stringify(object, null, 1)};\n`;
  }
  const options = {
    noEmit: true, strict: true, skipLibCheck: true, types: [],
    module: ts.ModuleKind.CommonJS, moduleResolution: ts.ModuleResolutionKind.Node10,
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (name) => name === file || fileExists(name);
  host.getSourceFile = (name, ...rest) => {
    if (name === file) return ts.createSourceFile(name, source, ts.ScriptTarget.ES2020);
    if (!parsed.has(name)) parsed.set(name, getSourceFile(name, ...rest));
    return parsed.get(name);
  };
  for (const found of ts.getPreEmitDiagnostics(ts.createProgram([file], options, host))) {
    if (found.file?.fileName !== file) continue;
    const owner = objects[starts.findLastIndex((start) => start <= found.start)];
    problems.push(`${nameOf(owner)}: ${ts.flattenDiagnosticMessageText(found.messageText, ' ')}`);
  }
}

const podOf = (object) => (object.kind === 'Pod' ? object.spec : object.spec?.template?.spec);
const containersOf = (pod) => [...(pod.initContainers ?? []), ...(pod.containers ?? [])];

function checkReferences(object, objects) {
  const pod = podOf(object);
  const present = new Set(objects.map(nameOf));
  const claims = (object.spec.volumeClaimTemplates ?? []).map((claim) => claim.metadata.name);
  const volumes = new Set([...claims, ...(pod.volumes ?? []).map((volume) => volume.name)]);
  const wanted = [
    ...(pod.serviceAccountName ? [`ServiceAccount/${pod.serviceAccountName}`] : []),
    ...(object.spec.serviceName ? [`Service/${object.spec.serviceName}`] : []),
    ...(pod.volumes ?? []).flatMap(({ persistentVolumeClaim: claim, configMap }) => [
      ...(claim ? [`PersistentVolumeClaim/${claim.claimName}`] : []),
      ...(configMap ? [`ConfigMap/${configMap.name}`] : []),
    ]),
    ...containersOf(pod).flatMap((container) => container.envFrom ?? [])
      .flatMap(({ configMapRef }) => (configMapRef ? [`ConfigMap/${configMapRef.name}`] : [])),
  ];
  for (const name of wanted) {
    if (!present.has(name)) problems.push(`${nameOf(object)}: references ${name}, which is not there`);
  }
  for (const { name, volumeMounts } of containersOf(pod)) {
    for (const mount of volumeMounts ?? []) {
      if (!volumes.has(mount.name)) {
        problems.push(`${nameOf(object)}: ${name} mounts ${mount.name}, which is no volume of the pod`);
      }
    }
  }
}

function checkRestricted(object) {
  const pod = podOf(object);
  const require = (ok, text) => ok || problems.push(`${nameOf(object)}: restricted: ${text}`);
  require(pod.securityContext?.runAsNonRoot === true, 'runAsNonRoot');
  require(pod.securityContext?.seccompProfile?.type === 'RuntimeDefault', 'seccompProfile RuntimeDefault');
  for (const { name, securityContext: context } of containersOf(pod)) {
    require(context?.allowPrivilegeEscalation === false, `${name}: allowPrivilegeEscalation false`);
    require(context?.readOnlyRootFilesystem === true, `${name}: readOnlyRootFilesystem`);
    require(context?.capabilities?.drop?.includes('ALL'), `${name}: drop ALL capabilities`);
  }
}

function checkFile(name) {
  problems = [];
  const objects = parse(fs.readFileSync(name, 'utf8'));
  checkUnknownFields(objects.filter(checkSchema));
  for (const object of objects.filter(podOf)) {
    checkReferences(object, objects);
    checkRestricted(object);
  }
  for (const problem of problems) console.error(problem);
  console.log(`${path.basename(name, '.yaml')}: ${objects.length} manifests, ${problems.length} problems`);
  if (problems.length || !objects.length) process.exitCode = 1;
}

process.argv.slice(2).forEach(checkFile);
