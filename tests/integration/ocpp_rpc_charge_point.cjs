// A charge point by another hand: npm's ocpp-rpc, which checks in strict mode every message that
// comes and goes. It keeps a limit until it is cleared, and prints what it finds wrong.
const { RPCClient } = require("ocpp-rpc");

const [endpoint, identity, password, now] = process.argv.slice(2);
const client = new RPCClient({
  endpoint,
  identity,
  password,
  protocols: ["ocpp1.6"],
  strictMode: true,
  reconnect: false,
});
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const profiles = new Map();
let transactionId;

client.on("strictValidationFailure", ({ messageId, error }) =>
  say({ wrong: `${messageId}: ${error.message} ${JSON.stringify(error.details)}` }),
);
client.on("badMessage", ({ error }) => say({ wrong: error.message }));

client.handle("GetConfiguration", ({ params }) => ({
  configurationKey: [
    { key: "ChargingScheduleAllowedChargingRateUnit", readonly: true, value: "Current" },
    { key: "ConnectorPhaseRotation", readonly: true, value: "1.RST" },
  ],
  unknownKey: params.key.slice(2),
}));
client.handle("SetChargingProfile", ({ params }) => {
  profiles.set(params.csChargingProfiles.chargingProfileId, params.csChargingProfiles);
  return { status: "Accepted" };
});
client.handle("ClearChargingProfile", ({ params }) => ({
  status: profiles.delete(params.id) ? "Accepted" : "Unknown",
}));
client.handle("GetCompositeSchedule", ({ params }) => {
  const [leading] = profiles.values();
  if (!leading) return { status: "Rejected" };
  const limit = leading.chargingSchedule.chargingSchedulePeriod[0].limit;
  const left = Math.round((Date.parse(leading.validTo) - Date.parse(now)) / 1000);
  return {
    status: "Accepted",
    connectorId: params.connectorId,
    scheduleStart: now,
    chargingSchedule: {
      duration: params.duration,
      chargingRateUnit: leading.chargingSchedule.chargingRateUnit,
      chargingSchedulePeriod: [
        { startPeriod: 0, limit, numberPhases: 3 },
        { startPeriod: left, limit: 16, numberPhases: 3 },
      ],
    },
  };
});
client.handle("TriggerMessage", ({ params }) => {
  if (params.requestedMessage !== "MeterValues") return { status: "NotImplemented" };
  setImmediate(() => tell(meterValues()));
  return { status: "Accepted" };
});

function meterValues() {
  const sampled = (measurand, value, more) => ({ measurand, value, ...more });
  return [
    "MeterValues",
    {
      connectorId: 1,
      transactionId,
      meterValue: [
        {
          timestamp: now,
          sampledValue: [
            sampled("Power.Active.Import", "1200.5", { phase: "L1", unit: "W" }),
            sampled("Power.Active.Import", "1200.5", { phase: "L2", unit: "W" }),
            sampled("Power.Active.Import", "1.199", { phase: "L3", unit: "kW" }),
            sampled("SoC", "50", { unit: "Percent" }),
            { value: "7345123" },
          ],
        },
      ],
    },
  ];
}

async function tell([action, params]) {
  try {
    return await client.call(action, params);
  } catch (error) {
    say({ wrong: `${action}: ${error.message}` });
  }
}

async function main() {
  await client.connect();
  const status = (to) => [
    "StatusNotification",
    { connectorId: 1, errorCode: "NoError", status: to, timestamp: now },
  ];
  say(await tell(["BootNotification", { chargePointVendor: "ocpp-rpc", chargePointModel: "js" }]));
  say(await tell(["Heartbeat", {}]));
  say(await tell(["Authorize", { idTag: "tag" }]));
  await tell(status("Preparing"));
  const start = { connectorId: 1, idTag: "tag", meterStart: 7, timestamp: now };
  const started = await tell(["StartTransaction", start]);
  transactionId = started.transactionId;
  await tell(status("Charging"));
  say(await tell(["DataTransfer", { vendorId: "js" }]));
  await tell(["FirmwareStatusNotification", { status: "Installed" }]);
  await tell(["DiagnosticsStatusNotification", { status: "Idle" }]);
  say({ ready: true });
  for await (const _ of process.stdin);
  say(await tell(["StopTransaction", { transactionId, meterStop: 9, timestamp: now }]));
  await client.close();
}

main().catch((error) => say({ wrong: String(error) }));
